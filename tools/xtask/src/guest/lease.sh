#!/bin/sh
# What udhcpc runs when a lease comes or goes.
case $1 in
    deconfig) ip addr flush dev "$interface" ;;
    bound | renew)
        ip addr add "$ip/${mask:-24}" dev "$interface"
        for gateway in $router; do ip route add default via "$gateway"; done
        echo "$boot_file" > /tmp/tag
        echo "$ip" > /tmp/address
        ;;
esac
