#!/bin/bash
# Boots a Solo of its own in a temporary directory and shows it at work, printing each
# command before it runs it. Ends with 0 only if every step did what it should and
# nothing is left. `make demo` builds what it needs first.
# shellcheck disable=SC2016 # commands are shown as they are written, and run by eval
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

# Everything that Solo makes needs root.
[ "$(id -u)" = 0 ] || exec sudo env PATH="$PATH" "$0" "$@"

work=$(mktemp -d /tmp/solo-demo-XXXXXX)
chmod 0755 "$work"
export PATH="${BIN:-$PWD/bin}:$PWD/build/tools:$PATH" WORK=$work
solod='' watcher=''
bold='' plain=''
[ ! -t 1 ] || { bold=$'\e[1m' plain=$'\e[0m'; }

title() { printf '\n%s== %s ==%s\n' "$bold" "$*" "$plain"; }

note() { printf '%s\n' "# $*"; }

die() {
	printf '\n%sdemo: FAILED: %s%s\n' "$bold" "$*" "$plain" >&2
	exit 1
}

# try COMMAND: shows a command line, runs it, shows what it said; out and status are
# what it said and how it ended.
out='' status=0
try() {
	printf '\n%s$ %s%s\n' "$bold" "$1" "$plain"
	out=$(eval "$1" 2>&1)
	status=$?
	[ -z "$out" ] || printf '%s\n' "$out"
}

# ok COMMAND: one that must end well.
ok() {
	try "$1"
	[ $status = 0 ] || die "it ended with status $status"
}

# says PATTERN: the last command must have said it.
says() { grep -Eq -- "$1" <<<"$out" || die "it did not say: $1"; }

# until COMMAND PATTERN: repeats a command, silently, until it says the pattern, and
# shows it then.
until_says() {
	local i
	for i in $(seq 300); do
		eval "$1" 2>&1 | grep -Eq -- "$2" && break
		sleep 0.1
	done
	[ "$i" -lt 300 ] || note "gave up waiting after 30 seconds"
	ok "$1"
	says "$2"
}

# free_port: one that nothing listens on now.
free_port() {
	local p
	while p=$((20000 + RANDOM % 10000)); do
		(exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || break
	done
	echo "$p"
}

group() { printf 'solo-%.8s' "$(printf %s "$work/state" | sha256sum)"; }

# remains lists what is left of this Solo.
remains() {
	find /sys/fs/cgroup -maxdepth 2 -type d -name "$(group)" 2>/dev/null
	grep -lF "$(group)" /proc/[0-9]*/cgroup 2>/dev/null
	grep -F "$work" /proc/self/mountinfo
	[ ! -d "$work/run" ] || find "$work/run" -mindepth 1
	return 0
}

# stop ends solod as a system would, and says how that went.
stop() {
	local pid=$solod code
	solod=''
	kill -TERM "$pid"
	wait "$pid"
	code=$?
	[ $code = 0 ] || {
		printf 'solod ended with status %s\n' $code
		return 1
	}
}

cleanup() {
	local code=$? pid
	trap - EXIT INT TERM
	[ -z "$watcher" ] || kill "$watcher" 2>/dev/null
	if [ -n "$solod" ]; then
		stop || code=1
		[ $code = 0 ] || sed 's/^/solod: /' "$work/log"
	fi
	# Only after a failure is there anything to do.
	for pid in $(find /sys/fs/cgroup -path "*/$(group)*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u); do
		kill -KILL "$pid" 2>/dev/null
		code=1
	done
	rm -rf "$work"
	exit $code
}
trap cleanup EXIT
trap 'exit 130' INT TERM

title "Solo boots"
note 'the examples, with ports that are free here'
API_PORT=$(free_port) REDIS_PORT=$(free_port) FILES_PORT=$(free_port) HELLO_PORT=$(free_port)
export API_PORT REDIS_PORT FILES_PORT HELLO_PORT
cp -r docs/examples "$work/examples"
cd "$work/examples" || die "the examples cannot be copied"
sed -i "s/:16379/:$REDIS_PORT/; s/:18000/:$FILES_PORT/; s/:18080/:$HELLO_PORT/" redis.yaml files.yaml hello-go/hello.yaml
ok 'solo-ctl certs init --state-dir $WORK/state'
note 'solod --state-dir $WORK/state --run-dir $WORK/run --listen 127.0.0.1:$API_PORT &'
solod --state-dir "$work/state" --run-dir "$work/run" --listen "127.0.0.1:$API_PORT" >"$work/log" 2>&1 &
solod=$!
for _ in $(seq 600); do
	grep -q '^solod: ready' "$work/log" && break
	kill -0 $solod 2>/dev/null || break
	sleep 0.1
done
grep '^solod: ready' "$work/log" || die "solod is not ready"
note 'export SOLO_ADDR=unix://$WORK/run/api.sock'
export SOLO_ADDR=unix://$work/run/api.sock
note 'export SOLO_TOKEN=$(cat $WORK/state/root.token)'
SOLO_TOKEN=$(cat "$work/state/root.token") || die "root has no token"
export SOLO_TOKEN
ok 'solo-ctl kernel info'
ok 'solo-ctl list --system'
for s in audit fs gateway monitor net; do says "solo-$s +ready"; done

title "(a) programs that know nothing of Solo, by manifest"
ok 'cat redis.yaml'
ok 'solo-ctl deploy --wait redis.yaml'
says 'redis ready'
ok 'redis-cli -p $REDIS_PORT set greeting hello'
says '^OK$'
ok 'redis-cli -p $REDIS_PORT get greeting'
says '^"?hello"?$'
ok 'redis-benchmark -p $REDIS_PORT -n 10000 -t get,set --csv'
says '"SET","[0-9.]+"'
says '"GET","[0-9.]+"'
ok 'solo-ctl status redis'
says 'state: +ready'

ok 'solo-ctl deploy --wait files.yaml'
says 'team/files ready'
ok 'curl -sSf http://127.0.0.1:$FILES_PORT/hello.txt'
[ "$out" = "$(cat hello.txt)" ] || die "it is another file"

ok 'CGO_ENABLED=0 go build -o hello-go/hello-go hello-go/main.go'
ok 'solo-ctl deploy --wait hello-go/hello.yaml'
says 'hello ready'
ok 'curl -sSf "http://127.0.0.1:$HELLO_PORT/?name=agent"'
says '^Hello, agent! This is process [0-9]+ of user 1000.$'

title "(b) an agent, with grpcurl, the socket and a token"
note 'call() { grpcurl -plaintext -unix -H "authorization: Bearer $SOLO_TOKEN" "$@"; }'
call() { grpcurl -plaintext -unix -H "authorization: Bearer $SOLO_TOKEN" "$@"; }
# The messages of an upload: 512 KiB of the file each, in base64.
note "messages() { split -b 512K --filter=\"base64 -w0 | jq -Rc '{data: .}'\" \"\$1\"; }"
messages() { split -b 512K --filter="base64 -w0 | jq -Rc '{data: .}'" "$1"; }
sock=$work/run/api.sock
export SOCK=$sock
ok 'call $SOCK list'
says 'solo.v1.SoloService'
call -d '{"kinds": ["log", "event"]}' "$sock" solo.v1.SoloService/Watch >"$work/watch" 2>&1 &
watcher=$!
note "call -d '{\"kinds\": [\"log\", \"event\"]}' \$SOCK solo.v1.SoloService/Watch > \$WORK/watch &"
ok 'messages app.py | call -d @ $SOCK solo.v1.ArtifactService/Upload'
app=$(jq -r .digest <<<"$out")
ok 'messages hello-go/hello-go | call -d @ $SOCK solo.v1.ArtifactService/Upload'
elf=$(jq -r .digest <<<"$out")
[[ $app == sha256:* && $elf == sha256:* ]] || die "an upload has no digest"
export APP=$app ELF=$elf
ok 'call -d "{\"name\": \"agent/app\", \"artifact\": {\"digest\": \"$APP\", \"file\": \"app.py\"}, \"wait\": true}" $SOCK solo.v1.SoloService/Deploy'
says '"state": "ready"'
ok 'call -d "{\"name\": \"agent/elf\", \"artifact\": {\"digest\": \"$ELF\"}, \"ready\": {\"notify\": true},
    \"resources\": {\"startup_timeout_ms\": 10000}, \"wait\": true}" $SOCK solo.v1.SoloService/Deploy'
says '"state": "ready"'
ok 'call -d "{\"service\": \"agent/elf\"}" $SOCK solo.v1.SoloService/Status'
says '"statusText": "serving"'
until_says 'cat $WORK/watch | jq -r "select(.log) | .log.text | @base64d"' '^step 3: 9$'
ok 'jq -r "select(.event) | .service + \" \" + .event.type" $WORK/watch'
says '^agent/app ready$'
says '^agent/elf ready$'
note 'what cannot be is refused, with the field and the reason:'
try 'call -d "{\"name\": \"agent/bad\", \"binary\": {\"path\": \"/usr/bin/no-such-program\"}}" $SOCK solo.v1.SoloService/Deploy'
[ $status != 0 ] || die "it was not refused"
says 'InvalidArgument'
says 'binary.path'
try 'call -d "{\"name\": \"agent/app\", \"binary\": {\"path\": \"/usr/bin/sleep\"}}" $SOCK solo.v1.SoloService/Deploy'
says 'AlreadyExists'
try 'grpcurl -plaintext -unix $SOCK solo.v1.SoloService/List'
says 'Unauthenticated'
for s in app elf; do
	ok "call -d '{\"service\": \"agent/$s\"}' \$SOCK solo.v1.SoloService/Kill"
	says '"state": "stopped"'
done
kill $watcher 2>/dev/null
wait $watcher 2>/dev/null
watcher=''
note 'the same over TCP, which needs the certificates too:'
note 'over() { grpcurl -H "authorization: Bearer $SOLO_TOKEN" -cacert $CERTS/ca.pem "$@"; }'
over() { grpcurl -H "authorization: Bearer $SOLO_TOKEN" -cacert "$CERTS/ca.pem" "$@"; }
CERTS=$work/state/certs
ok 'over -cert $CERTS/client.pem -key $CERTS/client.key 127.0.0.1:$API_PORT solo.v1.KernelService/Info'
says '"stateDir"'
try 'over 127.0.0.1:$API_PORT solo.v1.KernelService/Info'
[ $status != 0 ] || die "it answered without a client certificate"

title "(c) work that is done once"
ok 'cat longest.py'
ok 'solo-ctl run longest.py 3 < README.md'
[ "$(grep -cE '^[0-9]+ ' <<<"$out")" -ge 3 ] || die "there are not three words"
try "echo 'exit 7' | solo-ctl run --language sh -"
[ $status = 7 ] || die "the exit status is $status, not the program's"
try 'solo-ctl run --time-limit 1s /bin/sleep 60'
[ $status != 0 ] || die "the time limit did not end it"
says timeout

title "(d) what breaks is put right, and says why"
old=$(solo-ctl status team/files -o json | jq '.instances[0].pid')
ok "kill -9 $old   # the process of team/files"
until_says 'solo-ctl status team/files -o json | jq -c "{state, reason, restarts, pid: .instances[0].pid}"' '"state":"ready","reason":"signal:9","restarts":1'
[ "$(jq .pid <<<"$out")" != "$old" ] || die "it is the same process"
ok 'curl -sSf --retry 5 --retry-all-errors http://127.0.0.1:$FILES_PORT/hello.txt'
ok 'solo-ctl deploy hungry.yaml'
until_says 'solo-ctl status hungry -o json | jq -c "{name, state, reason}"' '"reason":"oom"'
ok 'solo-ctl logs hungry | tail -n 1'
ok 'solo-ctl list'
ok 'solo-ctl audit tail | tail -n 3 | cut -c1-150'
says '"op":"limit"'
ok 'curl -sS --unix-socket $WORK/run/metrics.sock http://solo/metrics | grep -E "^solo_(deployment_count|active_services) "'
says '^solo_deployment_count [1-9]'

title "Solo ends"
note 'kill -TERM $(pidof solod)'
stop || die "solod did not end in good order: $(tail -n 5 "$work/log")"
for port in $API_PORT $REDIS_PORT $FILES_PORT $HELLO_PORT; do
	! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || die "port $port still answers"
done
left=$(remains)
[ -z "$left" ] || die "this is left: $left"
note 'no process, cgroup, mount, socket or port is left'
printf '\n%sdemo: ok%s\n' "$bold" "$plain"
