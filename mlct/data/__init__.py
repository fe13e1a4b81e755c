"""What a model learns from: digests, snapshots, windows, contracts."""
