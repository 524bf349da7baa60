# Sourced by init.sh after its first transfers: both directions at the same time for
# $soak seconds, every block checked, beside it pings. Every $beat seconds, and at the
# end when all is quiet, the guest tells its own counters and those that the paravisor
# gives it on the second serial port. Lines are read by cargo xtask.

# As the web server has it: blocks of BLOCK bytes, turned by n steps of STEP bytes.
BLOCK=2097152
STEP=65536
STEPS=32

base=${url%/file}
server=${base#http://}
server_ip=${server%:*} server_port=${server#*:}
head -c $BLOCK /tmp/file > /tmp/block
rm -f /tmp/file /tmp/upload

seconds() { read -r up rest < /proc/uptime; up=${up%.*}; }
over() { seconds; [ "$up" -ge "$until" ]; }

down() {
    n=0
    until over; do
        n=$((n + 1))
        sum=$(timeout 600 wget -q -O - "$base/down/$n" | sha256sum)
        say soak down $n "${sum%% *}"
    done
    say soak downs $n
}

up() {
    n=0
    until over; do
        n=$((n + 1))
        turn=$((n % STEPS))
        answer=$(post "$server_ip" "$server_port" 600 "
            printf 'POST /up/%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n' $n $BLOCK
            dd if=/tmp/block bs=$STEP skip=$turn 2>/dev/null
            [ $turn -eq 0 ] || dd if=/tmp/block bs=$STEP count=$turn 2>/dev/null")
        say soak up $n "${answer:-none}"
    done
    say soak ups $n
}

# The kernel's counters of the interface, as words.
interface() {
    words=
    for name in rx_packets rx_bytes rx_dropped rx_errors tx_packets tx_bytes tx_dropped tx_errors; do
        read -r value < "/sys/class/net/eth0/statistics/$name"
        words="$words $1.$name=$value"
    done
}

# Everything at this moment: before and after the paravisor's counters the kernel's, so
# that a reader knows whether anything has moved meanwhile.
account() {
    memory=$(awk '/^(MemTotal|MemFree|MemAvailable|Slab):/ { printf " memory.%s=%s", substr($1, 1, length($1) - 1), $2 }' /proc/meminfo)
    interface before; before=$words
    paravisor; counted=$words
    interface after; after=$words
    seconds
    all="seconds=$((up - born))$memory$before$after$counted"
}

. /bin/counters
seconds
born=$up until=$((up + soak))
say soak begin
down & down=$!
up & up_id=$!
ping -q -s 1000 -w "$soak" "$server_ip" > /tmp/ping 2>&1 & ping=$!
next=$((born + beat))
while [ "$next" -lt "$until" ]; do
    seconds
    [ "$up" -lt "$next" ] && sleep $((next - up))
    account
    say soak beat "$all"
    next=$((next + beat))
done
wait $down $up_id $ping
say soak ping "$(awk '/transmitted/ { print $1, $4 }' /tmp/ping)"
# Until nothing moves: what is on its way arrives, connections are forgotten.
tries=0
while :; do
    sleep 1
    account
    tries=$((tries + 1))
    [ "$before" = "$(echo "$after" | sed 's/after\./before./g')" ] && break
    [ "$tries" -lt 10 ] || { say error "the network does not come to rest"; break; }
done
say soak end "$all"
exec 3>&-
