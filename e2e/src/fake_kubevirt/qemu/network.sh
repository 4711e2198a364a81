#!/bin/busybox sh
# Sets up the launcher pod's network as KubeVirt's masquerade binding does (pkg/network/driver/nft and masquerade.go):
# the guest is 10.0.2.2 behind the bridge, and everything that comes to the pod's address is its own.
# Needs root's rights in the pod's network; QEMU, which comes after it, has none.
# busybox has an ip of its own, which knows less.
set -eu

mtu=$(cat /sys/class/net/eth0/mtu)
echo 1 > /proc/sys/net/ipv4/ip_forward

/usr/bin/ip link add k6t-eth0 mtu "$mtu" type bridge
/usr/bin/ip address add 10.0.2.1/24 dev k6t-eth0
/usr/bin/ip tuntap add tap0 mode tap user 107 group 107 vnet_hdr
/usr/bin/ip link set tap0 mtu "$mtu" master k6t-eth0 up
/usr/bin/ip link set k6t-eth0 up

nft -f - <<'RULES'
table ip nat {
  chain prerouting {
    type nat hook prerouting priority -100;
    iifname "eth0" counter jump KUBEVIRT_PREINBOUND
  }
  chain input { type nat hook input priority 100; }
  chain output {
    type nat hook output priority -100;
    ip daddr 127.0.0.1 counter dnat to 10.0.2.2
  }
  chain postrouting {
    type nat hook postrouting priority 100;
    ip saddr 10.0.2.2 counter masquerade
    oifname "k6t-eth0" counter jump KUBEVIRT_POSTINBOUND
  }
  chain KUBEVIRT_PREINBOUND { counter dnat to 10.0.2.2; }
  chain KUBEVIRT_POSTINBOUND { ip saddr 127.0.0.1 counter snat to 10.0.2.1; }
}
RULES
