"""What the host gives: files, mounts, privileges, systemd and the clock. Standard library only."""
