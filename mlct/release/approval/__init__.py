"""Signed approvals, roles and risk tiers.

`signature` knows SSH, `approvers` who may, `request` what is approved and which answers count.
"""
