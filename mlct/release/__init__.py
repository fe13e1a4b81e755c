"""What is live and who said so: ledger, approvals, slots."""
