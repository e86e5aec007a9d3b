#!/bin/busybox sh
# Init of the test guest: loads drivers, then runs one script after another from
# the host. The protocol is described in guest.go.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s
export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/
modprobe -a virtio_pci virtio_console virtio_blk crc32c_generic ext4

answer() { # id, status, file with the output
    length=$(wc -c <"$3")
    echo "$1 $2 $length"
    head -c "$length" "$3"
}

: >/tmp/output
exec 3<>/dev/vport0p1
answer 0 0 /tmp/output >&3
while read -r id script <&3; do
    echo "$script" | base64 -d >/tmp/script
    sh /tmp/script </dev/null >/tmp/output 2>&1 3<&-
    answer "$id" $? /tmp/output >&3
done
poweroff -f
