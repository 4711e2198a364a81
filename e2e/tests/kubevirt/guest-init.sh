#!/bin/busybox sh
# The stand-in guest: says on its console what machine it finds, serves HTTP on 8080, and does on 9000 what it is told.
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
while read -r module; do
    busybox insmod "/modules/$module.ko" || echo "stand-in: no module $module"
done < /modules/order

echo "stand-in: uuid $(busybox cat /sys/class/dmi/id/product_uuid)"
echo "stand-in: cpus $(busybox nproc)"
for disk in /sys/block/vd*; do
    serial=$(busybox cat "$disk/serial")
    echo "stand-in: disk $serial sectors $(busybox cat "$disk/size")"
    [ "$serial" != seed ] || seed=${disk##*/}
done
[ "$(busybox cat /sys/bus/pci/devices/*/device | busybox grep -c 0x25ab)" != 1 ] || echo "stand-in: watchdog"
busybox mount -t iso9660 -o ro "/dev/$seed" /seed
for file in meta-data user-data network-config; do
    echo "stand-in: $file: $(busybox tr '\n' ' ' < "/seed/$file")"
done
echo "stand-in: label $(busybox dd if="/dev/$seed" bs=1 skip=32808 count=32 2> /dev/null)"

busybox hostname "$(busybox sed -n 's/.*"local-hostname":"\([^"]*\)".*/\1/p' /seed/meta-data)"
busybox ip link set lo up
busybox ip address add 10.0.2.2/24 dev eth0
busybox ip link set eth0 up
busybox ip route add default via 10.0.2.1
echo "stand-in: mtu $(busybox cat /sys/class/net/eth0/mtu)"

# Any event of the power button.
if ! busybox grep -q deaf /proc/cmdline; then
    for button in /dev/input/event*; do
        (busybox dd if="$button" of=/dev/null bs=24 count=1 2> /dev/null && echo "stand-in: power button" && busybox poweroff -f) &
    done
fi
/testserver serve &
echo "stand-in: ready"
while true; do
    busybox nc -l -p 9000 -e /control
done
