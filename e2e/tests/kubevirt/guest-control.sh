#!/bin/busybox sh
read -r what
case $what in
    poweroff) busybox poweroff -f ;;
    panic) echo c > /proc/sysrq-trigger ;;
esac
