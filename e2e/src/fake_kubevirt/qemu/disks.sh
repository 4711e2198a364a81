#!/bin/busybox sh
# Makes the disks that no image brings. Arguments: name=bytes of each blank one.
# The seed's text comes from the mounted Secret, and goes to memory only: /run/vm is a tmpfs.
set -eu

for disk in "$@"; do
    truncate -s "${disk#*=}" "/var/tmp/${disk%%=*}.img"
done

printf 'instance-id: %s\nlocal-hostname: %s\n' "$INSTANCE_ID" "$LOCAL_HOSTNAME" > /run/vm/meta-data
set -- meta-data=/run/vm/meta-data
for file in user-data network-config; do
    if [ -e "/seed/$file" ]; then
        set -- "$@" "$file=/seed/$file"
    fi
done
genisoimage -quiet -volid cidata -joliet -rock -follow-links -o /run/vm/seed.iso -graft-points "$@"
