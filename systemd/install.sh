#!/bin/sh
# Installs scribed on this machine; `sudo make install`. Safe to repeat, also over a running service: it
# never touches recordings, transcripts, state, or a configuration that is there.
#   PYTHON=...       the interpreter, python3 by default
#   TORCH_INDEX=URL  where torch comes from
#   DESTDIR=DIR      for packagers: only puts files below DIR; makes no user, folder or link to the manager
#   LIBDIR=DIR       above systemd/, sysusers.d/ and tmpfiles.d/; /usr/local/lib by default
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
DESTDIR=${DESTDIR:-}
LIBDIR=${LIBDIR:-/usr/local/lib}
HOME_DIR=/opt/scribed # the units name it
VENV=$DESTDIR$HOME_DIR/venv
CPU_INDEX=https://download.pytorch.org/whl/cpu

say() { echo "scribed: $*"; }
refuse() { code=$1; shift; echo "scribed: $*" >&2; exit "$code"; }

[ -n "$DESTDIR" ] || [ "$(id -u)" -eq 0 ] || refuse 77 "Run it as root: sudo make install"
command -v "$PYTHON" >/dev/null || refuse 1 "There is no $PYTHON. Run first: apt-get install python3-venv"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || refuse 1 "Python 3.11 or newer is needed; name one with PYTHON=..."
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || refuse 1 "Run first: apt-get install python3-venv"
case $("$PYTHON" -c 'import sys; print(sys.base_prefix)') in
    /root* | /home*) refuse 1 "$PYTHON lies in a home folder, which the service cannot see. Name another one: PYTHON=/usr/bin/python3" ;;
esac

# The program

has_driver() { [ -e /proc/driver/nvidia/version ]; }
pip() { "$VENV/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

install_program() {
    install -d "$DESTDIR$HOME_DIR" "$DESTDIR$HOME_DIR/share/examples"
    "$VENV/bin/python" -c '' 2>/dev/null || "$PYTHON" -m venv --clear "$VENV"
    torch=$(grep '^torch==' constraints.txt)
    index=${TORCH_INDEX:-}
    if has_driver; then
        say "NVIDIA driver found: the CUDA build of torch."
        # The CPU's build of the same version would pass for it.
        case $(pip show torch 2>/dev/null | grep '^Version:') in *+cpu) [ -n "$index" ] || pip uninstall --yes torch ;; esac
    else
        index=${index:-$CPU_INDEX}
        say "No NVIDIA driver found: torch for the CPU. Install a driver and repeat \`make install\` to use a GPU."
    fi
    if [ -n "$index" ]; then pip install --index-url "$index" "$torch"; else pip install "$torch"; fi
    pip install --constraint constraints.txt .
    if has_driver; then
        missing=$("$VENV/bin/python" -c 'from daemon.host.compiler import find_missing; print(" and no ".join(find_missing()))')
        [ -z "$missing" ] || say "There is no $missing; with both the GPU is up to twice as fast. Run: apt-get install gcc python3-dev"
    fi
    [ -z "$DESTDIR" ] || relocate
    install -m 0644 README.md docs/*.md config.example.yaml "$DESTDIR$HOME_DIR/share/"
    install -m 0644 systemd/examples/* "$DESTDIR$HOME_DIR/share/examples/"
    install -d "$DESTDIR/usr/local/bin"
    ln -sfn $HOME_DIR/venv/bin/scribed "$DESTDIR/usr/local/bin/scribed"
    say "Program: $HOME_DIR, command: /usr/local/bin/scribed."
}

# A virtual environment knows where it lies: make it lie where it will.
relocate() {
    grep -rlIF "$DESTDIR" "$VENV/bin" "$VENV/pyvenv.cfg" | while read -r file; do
        [ -L "$file" ] || sed -i "s|$DESTDIR||g" "$file"
    done
}

# The service

install_units() {
    for unit in scribed.service scribed@.service; do
        install -D -m 0644 "systemd/$unit" "$DESTDIR$LIBDIR/systemd/system/$unit"
    done
    install -D -m 0644 systemd/scribed.sysusers "$DESTDIR$LIBDIR/sysusers.d/scribed.conf"
    install -D -m 0644 systemd/scribed.tmpfiles "$DESTDIR$LIBDIR/tmpfiles.d/scribed.conf"
    install -d -m 0755 "$DESTDIR/etc/scribed"
    say "Units: $LIBDIR/systemd/system/scribed.service and scribed@.service."
}

install_configuration() {
    if [ -e /etc/scribed/config.yaml ]; then
        say "Configuration: /etc/scribed/config.yaml was there and stays as it is."
    else
        install -m 0644 config.example.yaml /etc/scribed/config.yaml
        say "Configuration: /etc/scribed/config.yaml, all defaults."
    fi
}

# The units may use the first GPU; this adds all that are here, and loads their driver before the start.
install_gpus() {
    gpus=$(find /dev /dev/nvidia-caps -maxdepth 1 \( -name 'nvidia[0-9]*' -o -name 'nvidia-cap[0-9]*' \) -type c 2>/dev/null | sort -V)
    for unit in scribed.service scribed@.service; do
        drop_in=/etc/systemd/system/$unit.d/50-gpus.conf
        if has_driver; then
            install -d "${drop_in%/*}"
            {
                echo "# Written by \`make install\` from the GPUs it found; overwritten by each install."
                echo "[Unit]"
                echo "Wants=modprobe@nvidia_uvm.service"
                echo "After=modprobe@nvidia_uvm.service nvidia-persistenced.service"
                echo "[Service]"
                echo "DeviceAllow=char-nvidia-uvm rw"
                for gpu in $gpus; do echo "DeviceAllow=$gpu rw"; done
            } >"$drop_in"
        else
            rm -f "$drop_in"
            rmdir "${drop_in%/*}" 2>/dev/null || true
        fi
    done
    # shellcheck disable=SC2086  # one word for each device
    if has_driver; then say "GPU devices the service may use:" ${gpus:-none}; fi
}

install_program
install_units
if [ -n "$DESTDIR" ]; then
    say "Everything is below $DESTDIR. After unpacking: systemd-sysusers, systemd-tmpfiles --create, and config.example.yaml to /etc/scribed/config.yaml."
    exit 0
fi
systemd-sysusers scribed.conf
systemd-tmpfiles --create scribed.conf
say "User and group scribed; folders below /srv/scribed, /var/lib/scribed, /var/cache/scribed."
install_configuration
install_gpus
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    if systemctl is-active --quiet scribed.service 'scribed@*.service'; then
        say "The service runs on with the old version until: sudo systemctl restart scribed"
        exit 0
    fi
fi
cat <<'NEXT'
scribed: Installed. Next:
  sudo scribed fetch-model               # the one command that uses the network
  sudo scribed check --deep              # is everything ready? each line says what to do
  sudo systemctl enable --now scribed
  sudo usermod -aG scribed NAME          # for each person who may drop and read
NEXT
