#!/bin/busybox sh
# Runs QEMU with the given arguments, and a network card on tap0, until the guest ends. It ends well only when the guest
# powered itself off, or reset where a reset is the end (KubeVirt calls both Succeeded); what else ended it is on the last
# line and in the container's termination message.
#
# SIGTERM presses the power button; who sends it kills when the grace is over. KubeVirt then takes TEARDOWN seconds to go.
# Commands for QEMU (QMP) can be written to /run/vm/qmp.in; the answers and events are in /run/vm/qmp.log.
set -eu
cd /run/vm

mkfifo -m 0600 qmp.in qmp.out
cat qmp.out > qmp.log &
log=$!
mtu=$(cat /sys/class/net/eth0/mtu)
qemu-system-x86_64 "$@" \
    -netdev tap,id=net,ifname=tap0,script=no,downscript=no \
    -device virtio-net-pci,netdev=net,mac=02:00:00:00:02:02,romfile=,host_mtu="$mtu" \
    -chardev pipe,id=qmp,path=qmp -mon chardev=qmp,mode=control &
qemu=$!
exec 3<> qmp.in
teardown=0
trap 'teardown=$TEARDOWN; echo "{\"execute\": \"system_powerdown\"}" >&3' TERM
echo '{"execute": "qmp_capabilities"}' >&3

# A signal interrupts the wait.
while kill -0 "$qemu" 2> /dev/null; do
    wait "$qemu" || true
done
wait "$log" || true
reason=$(sed -n 's/.*"event": "SHUTDOWN".*"reason": "\([a-z-]*\)".*/\1/p' qmp.log)
echo "the VM ended: ${reason:-QEMU did}" | tee /dev/termination-log
sleep "$teardown"
[ "$reason" = guest-shutdown ] || [ "$reason" = guest-reset ]
