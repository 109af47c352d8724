#!/usr/bin/env bash
# The amd64 package in a clean Debian 12 that is booted with systemd in namespaces of its own, without a network: installed,
# started under its hardening, asked, killed by its watchdog, upgraded, purged. Needs root, debootstrap, cargo-deb and, for
# the first debootstrap and the model, a network. Some three minutes, of which the first debootstrap is one.
set -euo pipefail
cd "$(dirname "$0")/../.."
release=bookworm
base=$PWD/target/debootstrap-$release.tar
work=$(mktemp -d)
root=$work/root
init=

fail() {
    printf 'debian/test: %s\n' "$*" >&2
    exit 1
}
step() { printf '== %s\n' "$*"; }

# boot: a service manager on the folder, as process 1 of its namespaces; the last act of its process
boot() {
    mount --make-rprivate /
    mount --bind "$root" "$root"
    cd "$root"
    mount -t proc proc proc
    mount -t sysfs -o ro sysfs sys
    mount -t tmpfs -o mode=755 tmpfs dev
    for node in null zero full random urandom tty; do
        touch "dev/$node"
        mount --bind "/dev/$node" "dev/$node"
    done
    mkdir dev/shm dev/pts
    mount -t tmpfs tmpfs dev/shm
    mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    mount -t tmpfs -o mode=755 tmpfs run
    mount -t tmpfs tmpfs sys/fs/cgroup
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    # no chroot: a process in one can have no user namespace, which `PrivateUsers` is
    pivot_root . mnt
    umount -l /mnt
    exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system
}

# inside COMMAND…: in the booted system
inside() { nsenter -t "$init" -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }

# until COMMAND…: within 30 s
until_true() {
    local tries=0
    while ! "$@" >/dev/null 2>&1; do
        [ $((tries += 1)) -le 300 ] || fail "after 30 s still not: $*"
        sleep 0.1
    done
}

# every file of the system; not what dpkg, the accounts' tools and the journal keep for themselves
listing() {
    (cd "$root" && find . -xdev \( -path ./var/lib/dpkg -o -path ./var/cache -o -path ./var/log -o -path ./tmp \
        -o -path ./var/tmp -o -name '*-' \) -prune -o -print) | sort
    cut -d: -f1 "$root/etc/passwd" "$root/etc/group" | sort
}

group=
cleanup() {
    [ -z "$init" ] || kill -KILL "$init" 2>/dev/null || true
    wait
    [ -z "$group" ] || find "$group" -depth -type d -exec rmdir {} \; || true
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT

[ "$(id -u)" = 0 ] || fail 'must be root'
for tool in debootstrap unshare nsenter systemd-analyze; do
    command -v "$tool" >/dev/null || fail "$tool is missing"
done
cargo deb --version >/dev/null 2>&1 || fail 'cargo install --locked cargo-deb'

step 'the unit alone'
systemd-analyze security --offline=true --threshold=20 --no-pager cross/debian/glowplug.service | tail -1

step 'the package'
cargo build --release --quiet -p glowplug
target/release/glowplug pull smol
model=${GLOWPLUG_MODELS:-$HOME/.cache/glowplug/models}/SmolLM2-135M-Instruct.Q4_1.gguf
cargo deb --quiet --no-build --strip -p glowplug -o "$work/glowplug.deb"
dpkg-deb -I "$work/glowplug.deb" | grep -E '^ (Depends|Recommends|Installed-Size)'
newest=$(objdump -T target/release/glowplug | grep -o 'GLIBC_[0-9.]*' | sort -V | tail -1)
[ "$(printf '%s\n' "$newest" GLIBC_2.34 | sort -V | tail -1)" = GLIBC_2.34 ] || fail "it needs $newest: say so in depends"

step "a clean $release"
[ -e "$base" ] || debootstrap --variant=minbase --include=systemd,adduser --make-tarball="$base" "$release" "$work/made" >"$work/log" ||
    { cat "$work/log"; fail debootstrap; }
mkdir "$root"
debootstrap --variant=minbase --include=systemd,adduser --unpack-tarball="$base" "$release" "$root" >"$work/log" ||
    { cat "$work/log"; fail debootstrap; }

# a control group of its own: version 2's tree wants processes only in its leaves
mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$mount" ] || fail 'no cgroup2 is mounted'
group=$mount$(sed -n 's/^0:://p' /proc/self/cgroup)/glowplug-test-$$
mkdir "$group"
(
    echo 0 >"$group/cgroup.procs"
    export root
    exec unshare --fork --pid --mount --cgroup --ipc --uts --net bash -euc "$(declare -f boot); boot" </dev/null
) >"$work/boot.log" 2>&1 &
until_true pgrep -P $!
init=$(pgrep -P $!)
until_true inside systemctl is-system-running
cp "$work/glowplug.deb" "$root/tmp/"
listing >"$work/before"

step 'install'
inside dpkg -i /tmp/glowplug.deb
inside systemd-analyze verify glowplug.service
inside id glowplug
[ "$(inside stat -c '%U %a' /var/lib/glowplug/models)" = 'glowplug 750' ] || fail 'the folder of models'
[ "$(inside systemctl is-enabled glowplug)" = disabled ] || fail 'it would start without a model'
code=0
inside glowplug plan 2>"$work/log" || code=$?
{ [ "$code" = 2 ] && grep -q 'pull smol' "$work/log"; } || fail "without a model: $code, $(cat "$work/log")"

step 'start: ready when it has answered, within its limits'
inside install -o glowplug -m 0640 /dev/stdin "/var/lib/glowplug/models/${model##*/}" <"$model"
# there is no Mosquitto in this system
inside sed -i 's/^url/# url/' /etc/glowplug/config.toml
inside systemctl enable --now glowplug || { inside journalctl --no-pager -u glowplug; fail 'it does not start'; }
inside test -s "/var/lib/glowplug/models/${model##*/}.packed" || fail 'the model is not packed'
inside glowplug health --wait 5
inside glowplug ask --session test 'Say hello.'
inside glowplug-memory-max
limit=$(inside systemctl show glowplug -P MemoryMax)
total=$(inside setpriv --reuid=glowplug --regid=glowplug --clear-groups glowplug plan | awk '$1 == "total" { print $2 }')
[ $((limit / 1048576)) = $((total / 1048576 + 1)) ] || fail "MemoryMax is $limit, the plan's total $total"
inside systemctl is-active glowplug

step 'the watchdog: a process that stands still is replaced'
inside sh -c 'printf "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\nRestartSec=0\n" >/etc/systemd/system/glowplug.service.d/quick.conf'
inside systemctl daemon-reload
inside systemctl restart glowplug
before=$(inside systemctl show glowplug -P MainPID)
inside sh -c "kill -STOP $before"
until_true inside sh -c "[ \"\$(systemctl show glowplug -P MainPID)\" != $before ] && systemctl is-active glowplug"
[ "$(inside systemctl show glowplug -P NRestarts)" = 1 ] || fail 'not one restart'
inside glowplug health --wait 5
inside rm /etc/systemd/system/glowplug.service.d/quick.conf
inside systemctl daemon-reload

step 'upgrade: it runs on, the changed configuration stays'
inside dpkg -i /tmp/glowplug.deb
inside glowplug health --wait 5
inside grep -q '^# url' /etc/glowplug/config.toml || fail 'the changed configuration is gone'

step 'purge'
inside dpkg --purge glowplug
if inside systemctl is-active glowplug; then fail 'it still runs'; fi
listing >"$work/after"
diff "$work/before" "$work/after" || fail 'purge left something, or took too much'
step 'nothing is left'
