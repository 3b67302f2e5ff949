"""Services of the host: files, mounts, privileges, systemd and the clock. Standard library only."""
