#!/bin/busybox sh
# /init of aarm's VMs. Console noise goes to ttyS0; the command's output to ttyS1; its status to ttyS2.
B=/bin/busybox
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=${TERM:-linux}
$B mkdir -p /proc /sys /dev /tmp /run /root
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev 2>/dev/null
$B mkdir -p /dev/pts /dev/shm
$B mount -t devpts pts /dev/pts
$B mount -t securityfs securityfs /sys/kernel/security
$B mount -t cgroup2 cgroup2 /sys/fs/cgroup
$B mount -t bpf bpf /sys/fs/bpf
$B mount -t tmpfs -o mode=1777 tmpfs /tmp
$B mount -t tmpfs -o mode=755 tmpfs /run
$B mount -t tmpfs -o mode=1777 tmpfs /dev/shm
$B mkdir -p /var/log /var/lib
$B ip link set lo up
$B hostname aarm-vm
[ -e /usr/bin/env ] || $B --install -s /usr/bin
finish() {
    echo "exit $1" >/dev/ttyS2
    $B sync
    # Let the serial ports drain before the machine goes.
    $B sleep 0.2
    $B poweroff -f
}
. /etc/aarm-vm/config
exec </dev/null
if [ "$SYSTEMD" = 1 ]; then
    exec /lib/systemd/systemd
fi
$B stty -F /dev/ttyS1 raw -echo 2>/dev/null
if [ "$AGENT" = 1 ]; then
    /usr/local/bin/aarm-agent >/var/log/aarm-agent.log 2>&1 &
    agent=$!
    n=0
    until /usr/local/bin/aarm status >/dev/null 2>&1; do
        n=$((n + 1))
        if ! $B kill -0 $agent 2>/dev/null || [ $n -gt 600 ]; then
            { echo "aarm-agent did not start:"; $B cat /var/log/aarm-agent.log; } >/dev/ttyS1
            finish 125
        fi
        $B sleep 0.1
    done
fi
if [ "$INTERACTIVE" = 1 ]; then
    $B stty -F /dev/ttyS1 sane
    $B setsid -c /etc/aarm-vm/command </dev/ttyS1 >/dev/ttyS1 2>&1
else
    /etc/aarm-vm/command </dev/null >/dev/ttyS1 2>&1
fi
finish $?
