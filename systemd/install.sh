#!/bin/sh
# Installs scribed on this machine; `sudo make install`. Safe to repeat: it never touches recordings,
# transcripts, state, or a configuration that is there.
set -eu
cd "$(dirname "$0")/.."
PREFIX=/opt/scribed
PYTHON=${PYTHON:-python3}

[ "$(id -u)" -eq 0 ] || { echo "Run it as root: sudo make install"; exit 77; }
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "scribed needs Python 3.11 or newer; name one with PYTHON=..."; exit 1; }
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || { echo "Run first: apt-get install python3-venv"; exit 1; }

install -d "$PREFIX" "$PREFIX/share"
[ -x "$PREFIX/venv/bin/python" ] || "$PYTHON" -m venv "$PREFIX/venv"
pip() { "$PREFIX/venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
torch=$(grep '^torch==' constraints.txt)
if [ -e /proc/driver/nvidia/version ]; then
    echo "NVIDIA driver found: installing the CUDA build of torch."
else
    echo "No NVIDIA driver found: the CPU will be used. (TORCH_INDEX=URL takes a smaller build of torch.)"
fi
if [ -n "${TORCH_INDEX:-}" ]; then pip install --index-url "$TORCH_INDEX" "$torch"; else pip install "$torch"; fi
pip install --constraint constraints.txt .
install -m 0644 README.md config.example.yaml "$PREFIX/share/"
ln -sf "$PREFIX/venv/bin/scribed" /usr/local/bin/scribed

install -D -m 0644 systemd/scribed.sysusers /usr/lib/sysusers.d/scribed.conf
install -D -m 0644 systemd/scribed.tmpfiles /usr/lib/tmpfiles.d/scribed.conf
install -D -m 0644 systemd/scribed.service /etc/systemd/system/scribed.service
systemd-sysusers scribed.conf
systemd-tmpfiles --create scribed.conf
install -d -m 0755 /etc/scribed
[ -e /etc/scribed/config.yaml ] || install -m 0644 config.example.yaml /etc/scribed/config.yaml
[ ! -d /run/systemd/system ] || systemctl daemon-reload

echo "Installed. Next:"
echo "  sudo scribed fetch-model"
echo "  sudo scribed check"
echo "  sudo systemctl enable --now scribed"
echo "People who drop recordings: sudo usermod -aG scribed NAME"
