#!/bin/busybox sh
read -r what
echo "$what"
case $what in
    poweroff) busybox poweroff -f ;;
    panic) echo c > /proc/sysrq-trigger ;;
esac
