#!/bin/sh
# Takes the program away and keeps what belongs to people: recordings, transcripts, state, models,
# configuration and the user account.
set -eu
[ "$(id -u)" -eq 0 ] || { echo "Run it as root: sudo make uninstall"; exit 77; }
if [ -d /run/systemd/system ]; then systemctl disable --now scribed.service 2>/dev/null || true; fi
rm -f /etc/systemd/system/scribed.service /usr/lib/sysusers.d/scribed.conf /usr/lib/tmpfiles.d/scribed.conf
[ "$(readlink /usr/local/bin/scribed 2>/dev/null)" != /opt/scribed/venv/bin/scribed ] || rm -f /usr/local/bin/scribed
rm -rf /opt/scribed
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
echo "Removed. Kept: /srv/scribed, /var/lib/scribed, /etc/scribed and the user scribed."
