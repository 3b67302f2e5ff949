#!/bin/sh
# Becomes systemd over a throw-away copy of this machine's root. Run by box.py within new mount, pid, cgroup,
# ipc, uts and network namespaces; nothing it does is seen outside of them.
#   boot.sh WORK REPOSITORY PACKAGES
# WORK gets the copy's changes (in memory); the other two are shown, read-only, below /mnt/scribed.
set -eu
work=$1 repository=$2 packages=$3 root=$1/root

mount -t tmpfs tmpfs "$work"
mkdir -p "$work/changes" "$work/scratch" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/changes,workdir=$work/scratch" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys" # the sysctls are the machine's own
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    mknod -m 666 "$root/dev/$device" c "$(stat -c 0x%t "/dev/$device")" "$(stat -c 0x%T "/dev/$device")"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mkdir -p "$root/mnt/scribed/repository" "$root/mnt/scribed/packages"
mount --rbind -o ro "$repository" "$root/mnt/scribed/repository"
mount --rbind -o ro "$packages" "$root/mnt/scribed/packages"

# A machine of its own, on which nothing of ours is installed and nothing starts but what systemd needs.
: >"$root/etc/fstab"
systemd-id128 new >"$root/etc/machine-id"
echo box >"$root/etc/hostname"
rm -rf "$root"/etc/systemd/system/*.wants "$root/var/log/journal" "$root/etc/scribed" "$root/opt/scribed" \
    "$root/srv/scribed" "$root/var/lib/scribed" "$root/var/cache/scribed" "$root/etc/systemd/system/scribed"*
mkdir -p "$root/var/log/journal"
for unit in systemd-networkd.service systemd-resolved.service systemd-timesyncd.service systemd-udevd.service \
    systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-journald-audit.socket \
    getty@tty1.service console-getty.service getty-static.service systemd-sysctl.service systemd-modules-load.service \
    systemd-random-seed.service systemd-update-utmp.service systemd-remount-fs.service systemd-logind.service; do
    ln -sfn /dev/null "$root/etc/systemd/system/$unit"
done

hostname box
cd "$root"
mkdir .old
pivot_root . .old
umount -l /.old
rmdir /.old
exec env -i container=scribed-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --log-target=journal --show-status=no systemd.unit=multi-user.target
