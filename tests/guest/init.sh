#!/bin/sh
# PID 1 of the guest kernel. Its root is the host's, by hostfs; $guest (from the kernel's command line) is the folder that
# both sides see: `settings` and `command` are read there, `out`, `err` and `status` written.
# Not here: how the guest is started and what becomes of its output (machine.py).

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

halt_guest() {
    sync
    busybox poweroff -f
}

die() {
    echo "guest: $*" # on the console, whose end the host shows
    halt_guest
}

. "$guest/settings" # $modules: the folder of this kernel's; $writable: folders that are written through

# 1. A root of our own: the host's files below, a throw-away disc above. (An upper layer cannot lie on hostfs.)
mount -t proc proc /proc || die "no /proc"
mount -t ext4 -o noatime /dev/ubda "$guest/scratch" || die "no disc"
insmod "$modules/kernel/fs/overlayfs/overlay.ko" || die "no overlay file system"
mkdir "$guest/scratch/upper" "$guest/scratch/work" "$guest/scratch/free"
root=$guest/root
layers=lowerdir=/,upperdir=$guest/scratch/upper,workdir=$guest/scratch/work
mount -t overlay -o "$layers" root "$root" || die "no overlay"
mkdir -p "$root/scratch" "$root/lib/modules" "$root/host"
for folder in "$guest" $writable; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder" || die "cannot write through to $folder"
done
mount --bind "$guest/scratch/free" "$root/scratch"
mount --bind "${modules%/*}" "$root/lib/modules"
umount /proc
cd "$root" && pivot_root . host || die "no new root"
cd /

# 2. What every Linux has.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ln -sf /proc/self/fd /dev/fd
for stream in 0:stdin 1:stdout 2:stderr; do ln -sf "/proc/self/fd/${stream%:*}" "/dev/${stream#*:}"; done
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /run/netns
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo "+cpu +memory +io +pids" >/sys/fs/cgroup/cgroup.subtree_control
umount -l /host
mount --make-rshared /
ip link set lo up
hostname guest
ulimit -n 65536
for tables in iptables ip6tables; do # this kernel has nf_tables in the bridge family alone; Docker needs these
    [ -x /usr/sbin/$tables-legacy ] && ln -sf /usr/sbin/$tables-legacy /etc/alternatives/$tables
done

# 3. The command, and its status in one piece.
sh "$guest/command" </dev/null >"$guest/out" 2>"$guest/err"
echo $? >"$guest/status.new"
mv "$guest/status.new" "$guest/status"
kill -9 -1
halt_guest
