#!/bin/sh
# First process of the test guest. Every line that starts with @@uc is read by
# cargo xtask; the rest is for people. It never waits without a limit, and it
# always ends by switching the machine off.
export PATH=/bin

say() { echo "@@uc $*"; }
see() { say see "$@"; }
clock() { read -r up rest < /proc/uptime; echo "$up"; }
since() { echo "$1 $(clock)" | awk '{ printf "%.2f", $2 - $1 }'; }

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
say init

url= sha= rounds= seconds= counters= soak= beat=
for word in $(cat /proc/cmdline); do
    case $word in
        uc.url=*) url=${word#uc.url=} ;;
        uc.sha=*) sha=${word#uc.sha=} ;;
        uc.rounds=*) rounds=${word#uc.rounds=} ;;
        uc.seconds=*) seconds=${word#uc.seconds=} ;;
        uc.counters) counters=yes ;;
        uc.soak=*) soak=${word#uc.soak=} ;;
        uc.beat=*) beat=${word#uc.beat=} ;;
    esac
done

network() {
    while read -r module; do
        insmod "/modules/$module.ko" || say error "insmod $module"
    done < /modules/order

    tries=0
    while [ ! -e /sys/class/net/eth0 ]; do
        tries=$((tries + 1))
        [ "$tries" -gt 200 ] && { say error "no eth0"; return 1; }
        sleep 0.05
    done
    ip link set eth0 up
    udhcpc -i eth0 -f -n -q -t 15 -T 1 -s /bin/lease > /tmp/udhcpc 2>&1 || {
        cat /tmp/udhcpc
        say error "no DHCP lease"
        return 1
    }
    say lease "$(cat /tmp/address)"
    [ -n "$url" ] || return 0

    start=$(clock)
    timeout 120 wget -q -O /tmp/file "$url" || { say fetch bad none "$(since "$start")"; return 1; }
    took=$(since "$start")
    got=$(sha256sum /tmp/file | cut -d' ' -f1)
    if [ "$got" = "$sha" ]; then say fetch ok "$got" "$took"; else say fetch bad "$got" "$took"; fi

    # Send it back with its halves swapped, so that nobody can pass by an echo, and
    # without zero bytes, because busybox wget stops a posted file at the first.
    half=$(($(stat -c %s /tmp/file) / 2))
    {
        dd if=/tmp/file bs="$half" skip=1 count=1 2>/dev/null
        dd if=/tmp/file bs="$half" count=1 2>/dev/null
    } | tr '\000' '\001' > /tmp/upload
    start=$(clock)
    answer=$(timeout 120 wget -q -O - --post-file /tmp/upload "${url%/file}/upload")
    if [ "$answer" = ok ]; then say upload ok "$(since "$start")"; else say upload bad "$(since "$start")"; fi
    [ "$(nproc)" -eq 1 ] || { crowd; hotplug; }
    [ -z "$rounds" ] || measure
}

# Sends what a script writes to an address and port, and gives the last line of the
# answer. The script has the connection itself: what nc copies goes in pieces of 1024
# bytes, each of which may leave as a frame of its own.
post() {
    rm -f /tmp/answer
    timeout "$3" nc "$1" "$2" -e sh -c "$4; tail -n 1 > /tmp/answer"
    cat /tmp/answer
}

# So many connections from one processor: how many got an answer.
connect() {
    router=${url#http://}
    router=${router%%/*}
    good=0
    for turn in $(seq "$2"); do
        answer=$(printf 'GET /nothing HTTP/1.0\r\n\r\n' |
            taskset "$(printf %x $((1 << $1)))" timeout 20 nc "${router%:*}" "${router#*:}" | tail -n 1)
        [ "$answer" = "no such thing" ] && good=$((good + 1))
    done
    echo $good
}

# A few connections from each processor, so that each of the card's queues has its own.
crowd() {
    sum=0
    for cpu in $(seq 0 $(($(nproc) - 1))); do sum=$((sum + $(connect "$cpu" 6))); done
    see crowd "$sum of $((6 * $(nproc)))"
}

# Interrupts of the queue to the guest, by its number.
interrupts() {
    awk -v name="input[.]$1\$" '$NF ~ name { for (n = 2; n < NF; n++) if ($n ~ /^[0-9]+$/) sum += $n } END { print sum + 0 }' /proc/interrupts
}

# The last processor goes and comes back. The queue that was its own stays in use: there
# are connections until one has used it.
hotplug() {
    last=$(($(nproc) - 1))
    online=/sys/devices/system/cpu/cpu$last/online
    begun=$(clock)
    echo 0 > "$online" || return
    left=$(nproc)
    before=$(interrupts "$last")
    good=0 all=0 calls=0
    while [ "$calls" -eq 0 ] && [ "$all" -lt 40 ]; do
        good=$((good + $(connect 0 2))) all=$((all + 2))
        calls=$(($(interrupts "$last") - before))
    done
    echo 1 > "$online" || return
    again=$(connect "$last" 2)
    see hotplug-off "$good of $all with $left"
    see hotplug-on "$again of 2 with $(nproc)"
    see hotplug-interrupts "$calls"
    see hotplug-seconds "$(since "$begun")"
}

# The paravisor's counters as they are now, kept until all is measured: the console has
# its price, too.
moment() {
    [ -n "$counters" ] || return 0
    paravisor
    eval "moment_$moments=\$words"
    moments=$((moments + 1))
}

# Whether one more file is to be timed.
more() {
    now=$(clock)
    [ "$files" -lt "$rounds" ] && [ $((${now%.*} - ${start%.*})) -lt "$seconds" ]
}

# The same both ways, as often as asked for, and the way to the router and back. The
# contents were checked above.
measure() {
    moments=0
    [ -z "$counters" ] || . /bin/counters
    # Twice, to know what asking costs.
    moment
    moment
    start=$(clock) files=0
    while more; do
        files=$((files + 1))
        timeout 300 wget -q -O /dev/null "$url" || say error "fetch $files"
    done
    fetched="$files $(since "$start")"
    moment
    router=${url#http://}
    port=${router#*:}
    size=$(stat -c %s /tmp/upload)
    start=$(clock) files=0
    while more; do
        files=$((files + 1))
        # The server looks at the sum.
        answer=$(post "${router%%:*}" "${port%%/*}" 300 "
            printf 'POST /upload HTTP/1.0\r\nContent-Length: %d\r\n\r\n' $size
            dd if=/tmp/upload bs=64k 2>/dev/null")
        [ "$answer" = ok ] || say error "upload $files"
    done
    sent="$files $(since "$start")"
    moment
    pinged=$(ping -q -c 100 -i 0.02 "${router%%:*}" | sed -n 's/.*min.avg.max = //p')
    moment
    see bench-fetch "$fetched"
    see bench-upload "$sent"
    see bench-ping "$pinged"
    for number in $(seq 0 $((moments - 1))); do eval "see bench-counters-$number \$moment_$number"; done
    [ -z "$counters" ] || exec 3>&-
}

flag() { if grep -m1 '^flags' /proc/cpuinfo | grep -qw "$1"; then echo yes; else echo no; fi; }

facts() {
    see kernel "$(uname -r)"
    if [ -e /sys/class/net/eth0 ]; then
        nic=/sys/class/net/eth0/device
        see nic-driver "$(basename "$(readlink -f "$nic/driver")")"
        # virtio's device lies below its PCI function, a card is one.
        pci=$(readlink -f "$nic")
        [ -e "$pci/config" ] || pci=$(readlink -f "$nic/..")
        [ -e "$pci/vendor" ] && see nic-pci "$(cat "$pci/vendor"):$(cat "$pci/device")"
        [ -d "$pci/msi_irqs" ] && see nic-msix-vectors "$(ls "$pci/msi_irqs" | wc -l)"
        # A bit a character, in virtio's words: VIRTIO_NET_F_HASH_REPORT is 57.
        report=no
        [ "$(cut -c58 "$nic/features" 2>/dev/null)" = 1 ] && report=yes
        see nic-hash-report "$report"
        see nic-queues "$(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)"
        see nic-mac "$(cat /sys/class/net/eth0/address)"
        see nic-rx-packets "$(cat /sys/class/net/eth0/statistics/rx_packets)"
        see nic-tx-packets "$(cat /sys/class/net/eth0/statistics/tx_packets)"
    fi
    see processors "$(nproc)"
    see cpu "$(grep -m1 '^model name' /proc/cpuinfo | cut -d: -f2 | sed 's/^ //')"
    see clocksource "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
    for name in hypervisor sme sev sev_es sev_snp tdx_guest; do see "flag-$name" "$(flag "$name")"; done
    found=$(dmesg | sed -n 's/.*Hypervisor detected: //p' | head -n1)
    see hypervisor-detected "${found:-none}"
    see kernel-warnings "$(dmesg | grep -c 'cut here')"
    see acpi-vmbus-devices "$(ls /sys/bus/acpi/devices 2>/dev/null | grep -ci vmbus)"
    encryption=$(dmesg | sed -n 's/.*Memory Encryption Features active: //p' | head -n1)
    see memory-encryption "${encryption:-none}"
    # What Linux's Hyper-V drivers said, a fact per line.
    dmesg | grep -i 'hyper-v\|hv_vmbus\|hv_netvsc\|hv_utils' | sed 's/^\[[^]]*\] //' | head -n 40 > /tmp/hyperv
    number=0
    while read -r line; do
        number=$((number + 1))
        see "hyperv-$(printf %02d "$number")" "$line"
    done < /tmp/hyperv
    # Linux's own VMBus driver is the best judge of whether there is a VMBus.
    if [ -d /sys/module/hv_vmbus ]; then
        see vmbus-driver loaded
    elif [ -e /modules/hv_vmbus.ko ]; then
        if insmod /modules/hv_vmbus.ko 2>/tmp/refusal; then
            see vmbus-driver loaded
        else
            see vmbus-driver "refused ($(sed 's/.*: //' /tmp/refusal))"
        fi
    fi
}

# The paravisor's audit lies behind the second serial port: a line asks, lines answer.
audit() {
    [ -c /dev/ttyS1 ] || { see audit none; return; }
    stty -F /dev/ttyS1 raw -echo 2>/dev/null
    exec 3<>/dev/ttyS1
    echo audit >&3
    lines=0 rules= last=
    while [ "$lines" -lt 100 ] && read -r -t 2 line <&3; do
        case $line in
            *'"kind":"audit-end"'*) last=yes; break ;;
            *'"kind":"audit"'*)
                lines=$((lines + 1))
                rules="$rules $(echo "$line" | sed 's/.*"rule":"\([^"]*\)".*/\1/')"
                ;;
        esac
    done
    exec 3>&-
    if [ "$last" = yes ]; then see audit "$lines records$rules"
    elif [ "$lines" -eq 0 ]; then see audit "no answer"
    else see audit "broken off after $lines records"; fi
}

network
[ -z "$soak" ] || . /bin/soak
facts
audit
say end
poweroff -f
