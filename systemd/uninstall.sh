#!/bin/sh
# Takes the program away and keeps what belongs to people: recordings, transcripts, state, models, logs,
# configuration, drop-ins of theirs, and the user. `sudo make uninstall`; safe to repeat.
set -eu
LIBDIR=${LIBDIR:-/usr/local/lib}
[ "$(id -u)" -eq 0 ] || { echo "scribed: Run it as root: sudo make uninstall" >&2; exit 77; }
if [ -d /run/systemd/system ]; then
    systemctl disable --now --quiet scribed.service 2>/dev/null || true
    systemctl list-units --all --plain --no-legend 'scribed@*.service' | while read -r unit _; do
        systemctl disable --now --quiet "$unit" 2>/dev/null || true
    done
fi
for unit in scribed.service scribed@.service; do
    rm -f "$LIBDIR/systemd/system/$unit" "/etc/systemd/system/$unit.d/50-gpus.conf"
    rmdir "/etc/systemd/system/$unit.d" 2>/dev/null || true
done
rm -f "$LIBDIR/sysusers.d/scribed.conf" "$LIBDIR/tmpfiles.d/scribed.conf"
[ "$(readlink /usr/local/bin/scribed 2>/dev/null)" != /opt/scribed/venv/bin/scribed ] || rm -f /usr/local/bin/scribed
rm -rf /opt/scribed
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
echo "scribed: Removed. Kept: /srv/scribed, /var/lib/scribed, /var/cache/scribed, /var/log/scribed, /etc/scribed, the user scribed."
echo "scribed: To remove these too: sudo rm -r /srv/scribed /var/lib/scribed /var/cache/scribed /var/log/scribed /etc/scribed; sudo userdel scribed"
