#!/bin/sh
# Mounts, modules and network, once, before init starts the workload.

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
hostname bascule-guest
words=$(cat /proc/cmdline)

# In the order of the list; what the kernel has built in is not in it. As modprobe does, give each its parameters
# from the kernel command line (MODULE.PARAMETER=VALUE).
while read -r name; do
    parameters=
    for word in $words; do
        case $word in "$name".*) parameters="$parameters ${word#*.}" ;; esac
    done
    # shellcheck disable=SC2086 # several words are meant
    insmod "/lib/modules/$name.ko" $parameters
done </lib/modules/order

# bascule.ip=ADDRESS/LENGTH[+ADDRESS/LENGTH]...[,...]: those before the first comma are eth0's, and so on. Other
# interfaces stay down. No IPv6 address waits until duplicates of it are looked for.
ip link set lo up
for word in $words; do
    case $word in bascule.ip=*)
        number=0
        IFS=,
        for addresses in ${word#*=}; do
            [ ! -e /proc/sys/net/ipv6 ] || echo 0 >"/proc/sys/net/ipv6/conf/eth$number/accept_dad"
            IFS=+
            for address in $addresses; do
                ip address add "$address" dev "eth$number"
            done
            IFS=,
            ip link set "eth$number" up
            number=$((number + 1))
        done
        unset IFS
        ;;
    esac
done
