#!/bin/sh
# The first and only program of a guest: mounts what every program expects, then runs the host's commands.
#
# ttyS0 is the kernel's console, ttyS1 is the host's alone: a kernel message can therefore never land in the middle of
# an answer. A request is "run TOKEN SECONDS", the script in base64 lines, "end"; the answer is "begin TOKEN", the
# output in base64 lines, "end TOKEN STATUS". Base64 keeps every byte out of the hands of the tty's line discipline.

export PATH=/bin HOME=/root TERM=dumb LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

exec </dev/ttyS1 >/dev/ttyS1 2>/dev/ttyS0
stty -F /dev/ttyS1 115200 -echo -isig -ixon -icrnl -onlcr clocal

echo ready
while IFS= read -r line; do
    # shellcheck disable=SC2086 # the words of a request
    set -- $line
    [ "$1" = run ] || continue
    while IFS= read -r line && [ "$line" != end ]; do
        echo "$line"
    done >/run/request
    base64 -d /run/request >/run/script
    timeout -s KILL "$3" sh /run/script </dev/null >/run/output 2>&1
    status=$?
    echo "begin $2"
    base64 /run/output
    echo "end $2 $status"
done
# The host closed its end: nobody will ever ask again.
poweroff -f
