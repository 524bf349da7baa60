#!/bin/sh
# First process of the guest whose host plays a scenario. It fetches a small file
# again and again, says how its link and its fetches fare, and switches the machine
# off when the server says that it has seen enough, when the link is gone for good,
# or when it has lived too long. Lines that start with @@uc are read by cargo xtask.
export PATH=/bin

# Seconds without a link after which none is waited for.
PATIENCE=4
# Longest life in seconds.
LIFE=60
# Bytes of the file; a word from the server stands behind them.
PIECE=16384

say() { echo "@@uc $*"; }
now() { read -r up rest < /proc/uptime; echo "${up%.*}"; }

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
say init

url= sha=
for word in $(cat /proc/cmdline); do
    case $word in
        uc.url=*) url=${word#uc.url=} ;;
        uc.sha=*) sha=${word#uc.sha=} ;;
    esac
done
while read -r module; do
    insmod "/modules/$module.ko" || say error "insmod $module"
done < /modules/order
net=/sys/class/net/eth0
tries=0
while [ ! -e $net ] && [ "$tries" -lt 100 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
[ -e $net ] || say error "no eth0"
ip link set eth0 up
# A driver may begin with its link down; that is no loss.
settled=$(cat $net/carrier_down_count)

# One fetch; what the server wants next is left in $word.
fetch() {
    word=
    rm -f /tmp/piece
    timeout 5 wget -q -O /tmp/piece "$url/$(cat /tmp/tag)/piece" || return 1
    word=$(tail -c +$((PIECE + 1)) /tmp/piece)
    [ "$(head -c $PIECE /tmp/piece | sha256sum)" = "$sha  -" ]
}

born=$(now)
link= lost=
while [ $(($(now) - born)) -lt $LIFE ]; do
    if [ "$(cat $net/carrier)" != 1 ]; then
        [ "$link" = down ] || { link=down; lost=$(now); say link down; }
        [ $(($(now) - lost)) -ge $PATIENCE ] && break
        sleep 0.1
        continue
    fi
    [ "$link" = up ] || { link=up; say link up; }
    if [ ! -s /tmp/address ]; then
        udhcpc -i eth0 -f -n -q -t 3 -T 1 -s /bin/lease > /tmp/udhcpc 2>&1 || continue
        say lease "$(cat /tmp/address)"
    fi
    if fetch; then say fetch ok "$word"; else say fetch failed "$word"; sleep 0.1; fi
    [ "$word" = enough ] && break
done
say see link-losses $(($(cat $net/carrier_down_count) - settled))
say see kernel-warnings "$(dmesg | grep -c 'cut here')"
say end
poweroff -f
