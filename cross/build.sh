#!/usr/bin/env bash
# Builds the daemon for every target with plain cargo and Debian's cross compilers, and tries it under qemu-user.
# cross/build.sh [STAGE…]: without one, all of them but `gpu`.
#
#   build    release binaries with a list of their crates in them (cargo-auditable), and stripped ones in target/stripped, each of
#            which has to come as far as a certificate by TLS; for Android a check, because there is no NDK to link with
#   cores    the model's tests that depend on the processor, on three cores of aarch64: without sdot (Raspberry Pi 4,
#            i.MX8M), with it (Raspberry Pi 5, RK3588), and with all that qemu has (smmla). Minutes; the stage that .ci/run calls
#   suites   all unit tests of model and firmware-config, on aarch64, on the 32 bits of armv7 and on riscv64
#   chat     a question over MQTT to the emulated aarch64 and riscv64 daemons, token for token what x86-64 answers, for
#            riscv64 at the scalar level
#   sizes    binary, code and what an idle daemon holds, beside cross/sizes.txt
#   debian   the packages for arm64, armhf, riscv64 and amd64, in target/debian
#   gpu      the same daemon with feature `wgpu`, as the package glowplug-gpu for arm64 and amd64, in target/debian
#   sbom     target/sbom.json in CycloneDX: the crates, and smol with the hashes of its manifest
#   twice    the x86-64 binary built in two folders is the same, byte for byte
#
# `chat`, `sizes`, `debian` and `sbom` take what `build` made, `gpu` builds by itself. Runs on x86-64.
# Correctness and sizes only: time under qemu says nothing about a board. An hour on two cores, nearly all of it `build`.
# There is no loongarch64: Debian 12 has qemu for it but no compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

arm64=aarch64-unknown-linux-gnu
musl=aarch64-unknown-linux-musl
armv7='armv7-unknown-linux-gnueabihf'
riscv64=riscv64gc-unknown-linux-gnu
x86=x86_64-unknown-linux-gnu
android=aarch64-linux-android
modules=(gguf:: pool:: quant:: text::)
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_LINKER=arm-linux-gnueabihf-gcc
export CARGO_TARGET_RISCV64GC_UNKNOWN_LINUX_GNU_LINKER=riscv64-linux-gnu-gcc
# musl's C library comes with the Rust target; the little C there is needs no library, so that the compiler of the other
# one will do. Nothing is linked for Android
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld
export CC_aarch64_unknown_linux_musl=aarch64-linux-gnu-gcc CC_aarch64_linux_android=aarch64-linux-gnu-gcc

# at most so much, in bytes: a stripped binary, and the idle daemon without a model
BINARY_MAX=25000000
RESIDENT_MAX=20000000
# growth over cross/sizes.txt that nobody has to explain, in percent
GROWTH_MAX=5

work=$(mktemp -d)
daemon=
cleanup() {
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap cleanup EXIT
fail() {
    printf 'cross/build: %s\n' "$*" >&2
    exit 1
}
need() { command -v "$1" >/dev/null || fail "$1 is missing (Debian: $2)"; }
target() { rustup target list --installed | grep -qx "$1" || fail "rustup target add $1"; }

# how to run a target's program here
runner() {
    case $1 in
        "$arm64" | "$musl") echo "qemu-aarch64-static -cpu ${2:-max} -L /usr/aarch64-linux-gnu" ;;
        "$armv7") echo "qemu-arm-static -cpu ${2:-max} -L /usr/arm-linux-gnueabihf" ;;
        "$riscv64") echo "qemu-riscv64-static -cpu ${2:-rv64} -L /usr/riscv64-linux-gnu" ;;
    esac
}
# the machine's own are where everything else builds too
folder() { [ "$1" = "$x86" ] && echo target/release || echo "target/$1/release"; }
binary() { echo "$(folder "$1")/glowplug"; }
stripped() { echo "target/stripped/$1/glowplug"; }
built() {
    local triple
    for triple; do [ -x "$(stripped "$triple")" ] || fail "$(stripped "$triple") is missing: cross/build.sh build"; done
}

build() {
    need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
    need arm-linux-gnueabihf-gcc gcc-arm-linux-gnueabihf
    need riscv64-linux-gnu-gcc gcc-riscv64-linux-gnu
    cargo auditable --version >/dev/null 2>&1 || fail 'cargo install --locked cargo-auditable'
    local triple
    for triple in $arm64 $musl $armv7 $riscv64 $x86; do
        target "$triple"
        printf '== %s\n' "$triple"
        if [ "$triple" = "$x86" ]; then
            cargo auditable build --release -p glowplug
        else
            cargo auditable build --release -p glowplug --target "$triple"
        fi
        mkdir -p "target/stripped/$triple"
        "$(tool "$triple" strip)" -o "$(stripped "$triple")" "$(binary "$triple")"
        # shellcheck disable=SC2046 # a command and its arguments
        $(runner "$triple") "$(stripped "$triple")" --version
        speaks_tls "$triple"
    done
    if objdump -p "$(binary $musl)" | grep NEEDED; then fail "$musl should need no library"; fi
    printf '== %s\n' $android
    target $android
    cargo check --release -p glowplug --target $android
}

# speaks_tls TRIPLE: the handshake comes as far as the certificate, which is found to be of an authority that nobody named
speaks_tls() {
    need openssl openssl
    local name authority port said tries=0
    while read -r name authority; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -days 2 \
            -addext subjectAltName=IP:127.0.0.1 -addext "basicConstraints=critical,CA:$authority" \
            -keyout "$work/$name.key" -out "$work/$name.pem" 2>/dev/null
    done <<<$'broker FALSE\ntheirs TRUE'
    : >"$work/server.log"
    openssl s_server -www -accept 127.0.0.1:0 -cert "$work/broker.pem" -key "$work/broker.key" </dev/null >"$work/server.log" 2>&1 &
    daemon=$!
    until port=$(sed -n 's/^ACCEPT.*:\([0-9]*\)$/\1/p' "$work/server.log") && [ -n "$port" ]; do
        [ $((tries += 1)) -le 600 ] || fail 'openssl s_server does not start'
        sleep 0.1
    done
    # shellcheck disable=SC2046 # a command and its arguments
    said=$($(runner "$1") "$(stripped "$1")" ask hello --node cross --client cross \
        --broker "mqtts://127.0.0.1:$port" --ca "$work/theirs.pem" 2>&1) && fail "$1 trusts whoever comes"
    kill "$daemon"
    wait "$daemon" || true
    daemon=
    printf '%s\n' "$said"
    grep -q 'issued by nobody in .*theirs.pem' <<<"$said" || fail "$1 does not speak TLS"
}

# tool TRIPLE NAME: of the binutils for it
tool() {
    case $1 in
        "$arm64" | "$musl") echo "aarch64-linux-gnu-$2" ;;
        "$armv7") echo "arm-linux-gnueabihf-$2" ;;
        "$riscv64") echo "riscv64-linux-gnu-$2" ;;
        *) echo "$2" ;;
    esac
}

# tests TRIPLE CPU LEVELS FILTER…: they pass on that core, those of the kernels ran on exactly these levels, and none of
# the modules that depend on the processor was without a test
tests() {
    local triple=$1 cpu=$2 wanted=$3 levels module runner packages=(-p glowplug-model) log=$work/tests.log
    shift 3
    printf '== %s, %s\n' "$triple" "$cpu"
    [ $# -gt 0 ] || packages+=(-p glowplug-firmware-config)
    runner=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$triple")_RUNNER
    env "$runner=$(runner "$triple" "$cpu")" \
        cargo test --release "${packages[@]}" --lib --target "$triple" -- --show-output "$@" \
        >"$log" 2>&1 || { cat "$log"; fail "tests fail on $cpu"; }
    # clippy sees only the code of the machine it runs on
    if grep '^warning' "$log"; then fail "warnings on $triple"; fi
    grep '^test result' "$log"
    levels=$(sed -n 's/^level //p' "$log" | sort -u | paste -sd' ')
    printf 'levels: %s\n' "$levels"
    [ "$levels" = "$wanted" ] || fail "on $cpu the kernels should run on: $wanted"
    for module in "${modules[@]}"; do
        grep -q "^test $module.* ok$" "$log" || fail "no test of $module ran on $cpu"
    done
}

cores() {
    need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
    need qemu-aarch64-static qemu-user-static
    target $arm64
    # masks are tables and bits, the same on every core, and would take most of the time under qemu
    local these=("${modules[@]}" --skip text::constrain)
    tests $arm64 cortex-a53 'neon scalar' "${these[@]}"
    tests $arm64 cortex-a76 'dotprod neon scalar' "${these[@]}"
    tests $arm64 max 'dotprod i8mm neon scalar' "${these[@]}"
}

suites() {
    need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
    need arm-linux-gnueabihf-gcc gcc-arm-linux-gnueabihf
    need riscv64-linux-gnu-gcc gcc-riscv64-linux-gnu
    need qemu-arm-static qemu-user-static
    target $arm64
    target $armv7
    target $riscv64
    tests $arm64 max 'dotprod i8mm neon scalar'
    tests $armv7 max scalar
    tests $riscv64 rv64 scalar
}

# serve TRIPLE MODEL CONTEXT: an own daemon in $daemon, its broker's port in $port, when the model answers
serve() {
    local tries=0
    export XDG_STATE_HOME=$work/state-$1
    # the last daemon's line would be found before the new one's shell has emptied the file
    : >"$work/serve.log"
    # shellcheck disable=SC2046 # a command and its arguments
    env GLOWPLUG_BROKER_LISTEN=127.0.0.1:0 GLOWPLUG_NODE=cross GLOWPLUG_MODEL_PATH="$2" GLOWPLUG_MODEL_CONTEXT="$3" \
        GLOWPLUG_MEMORY_KV_PAGES=$((($3 + 31) / 32)) GLOWPLUG_ENGINE_MAX_STREAMS=1 \
        $(runner "$1") "$(binary "$1")" serve 2>"$work/serve.log" &
    daemon=$!
    until port=$(grep -o -m1 'mqtt://127.0.0.1:[0-9]*' "$work/serve.log"); do
        [ $((tries += 1)) -le 600 ] || { cat "$work/serve.log"; fail "$1 does not start"; }
        sleep 0.1
    done
    port=${port##*:}
    "$(binary $x86)" health --broker "mqtt://127.0.0.1:$port" --node cross --wait 600
}
leave() {
    kill "$daemon"
    wait "$daemon"
    daemon=
}

# the tokens of an answer, one a line
answer() {
    serve "$1" "$(model)" 512 >&2
    mosquitto_rr -h 127.0.0.1 -p "$port" -i cross -u local -P "$(cat "$XDG_STATE_HOME/glowplug/local-password")" \
        -V mqttv5 -q 1 -W 600 -t glowplug/cross/chat/cross/request -e glowplug/cross/chat/cross/reply/1 \
        -m '{"messages":[{"role":"user","content":"Why is the sky blue?"}],"stream":false,"temperature":0,"max_tokens":32,"logprobs":true}' \
        >"$work/answer"
    grep -o '"token":"[^"]*"' "$work/answer" || { cat "$work/answer" >&2; fail "$1 gives no tokens"; }
    leave
}
model() { echo "${GLOWPLUG_MODELS:-$HOME/.cache/glowplug/models}/SmolLM2-135M-Instruct.Q4_1.gguf"; }

chat() {
    need mosquitto_rr mosquitto-clients
    need qemu-aarch64-static qemu-user-static
    built $x86 $arm64 $riscv64
    local triple
    for triple in $x86 $arm64 $riscv64; do
        printf '== chat: %s\n' "$triple"
        "$(binary $x86)" pull smol >/dev/null
        answer "$triple" >"$work/$triple.tokens"
    done
    sed 's/"token":"\(.*\)"/\1/' "$work/$x86.tokens" | tr -d '\n'
    printf '\n%d tokens\n' "$(wc -l <"$work/$x86.tokens")"
    diff "$work/$x86.tokens" "$work/$arm64.tokens" || fail "$arm64 answers otherwise than $x86"
    # riscv64 has the scalar level alone: attention and norms of the others differ in their last bits, and now and then a token
    GLOWPLUG_ISA=scalar answer "$x86" >"$work/scalar.tokens"
    diff "$work/scalar.tokens" "$work/$riscv64.tokens" || fail "$riscv64 answers otherwise than $x86 at the scalar level"
}

# bytes that the program holds: under qemu-user, of its addresses alone, which are below qemu's own
resident() {
    awk -v emulated="$(runner "$1")" '/^[0-9a-f]+-/ { counts = emulated == "" || length($1) < 22 } /^Rss:/ && counts { kb += $2 } END { print kb * 1024 }' \
        "/proc/$daemon/smaps"
}

sizes() {
    local triple bytes text held
    built $arm64 $musl $armv7 $riscv64 $x86
    # the daemon needs one: 15 kB, and a page for its context
    cargo run --quiet --release -p glowplug-tests --example fuzz_seeds -- "$work/models" >/dev/null
    printf '%-31s%12s%12s%12s\n' target binary code resident >"$work/sizes.txt"
    for triple in $arm64 $musl $armv7 $riscv64 $x86; do
        bytes=$(stat -c %s "$(stripped "$triple")")
        text=$("$(tool "$triple" size)" -A "$(stripped "$triple")" | awk '$1 == ".text" { print $2 }')
        serve "$triple" "$work/models/qwen2" 32 >/dev/null
        held=$(resident "$triple")
        leave
        printf '%-31s%12d%12d%12d\n' "$triple" "$bytes" "$text" "$held" >>"$work/sizes.txt"
        [ "$bytes" -le $BINARY_MAX ] || fail "$triple has $bytes bytes, at most $BINARY_MAX"
        [ "$held" -le $RESIDENT_MAX ] || fail "$triple holds $held bytes when idle, at most $RESIDENT_MAX"
    done
    cp "$work/sizes.txt" target/sizes.txt
    [ -e cross/sizes.txt ] || { cat target/sizes.txt; fail 'nothing to compare with: cp target/sizes.txt cross/sizes.txt'; }
    awk -v most=$GROWTH_MAX '
        FNR == 1 { if (NR == 1) print; next }
        NR == FNR { for (i = 2; i <= 4; i++) saved[$1, i] = $i; next }
        {
            line = sprintf("%-31s", $1)
            for (i = 2; i <= 4; i++) {
                growth = saved[$1, i] ? ($i / saved[$1, i] - 1) * 100 : 0
                line = line sprintf("%12d%+7.1f%%", $i, growth)
                if (growth > most) grown = grown "\n" $1 ": " saved[$1, i] " -> " $i
            }
            print line
        }
        END { if (grown != "") { print "grown by more than " most " %:" grown; exit 1 } }' \
        cross/sizes.txt "$work/sizes.txt" || fail 'if it must be so: cp target/sizes.txt cross/sizes.txt'
}

# old_enough TRIPLE BINARY: it runs with the C library that the packages ask for
old_enough() {
    local newest
    newest=$("$(tool "$1" objdump)" -T "$2" | grep -o 'GLIBC_[0-9.]*' | sort -V | tail -1)
    [ "$(printf '%s\n' "$newest" GLIBC_2.34 | sort -V | tail -1)" = GLIBC_2.34 ] ||
        fail "$1 needs $newest: say so in the depends of daemon/Cargo.toml"
}

debian() {
    cargo deb --version >/dev/null 2>&1 || fail 'cargo install --locked cargo-deb'
    built $arm64 $armv7 $riscv64 $x86
    local triple
    for triple in $arm64 $armv7 $riscv64 $x86; do
        old_enough "$triple" "$(binary "$triple")"
        if [ "$triple" = "$x86" ]; then
            cargo deb --quiet --no-build --strip -p glowplug -o target/debian/
        else
            cargo deb --quiet --no-build --strip -p glowplug --target "$triple" -o target/debian/
        fi
    done
    ls -l target/debian/*.deb
}

gpu() {
    need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
    cargo auditable --version >/dev/null 2>&1 || fail 'cargo install --locked cargo-auditable'
    cargo deb --version >/dev/null 2>&1 || fail 'cargo install --locked cargo-deb'
    # a folder of its own: the binary has the same name as the one without a GPU
    local -x CARGO_TARGET_DIR=target/wgpu
    local triple
    for triple in $arm64 $x86; do
        target "$triple"
        printf '== %s, wgpu\n' "$triple"
        cargo auditable build --release -p glowplug --features wgpu --target "$triple"
        old_enough "$triple" "target/wgpu/$triple/release/glowplug"
        cargo deb --quiet --no-build --strip -p glowplug --variant gpu --target "$triple" -o target/debian/
    done
    ls -l target/debian/glowplug-gpu_*.deb
}

sbom() {
    built $x86
    cargo cyclonedx --version >/dev/null 2>&1 || fail 'cargo install --locked cargo-cyclonedx'
    cargo cyclonedx --quiet --format json --target $x86 --manifest-path daemon/Cargo.toml --override-filename bom
    mv daemon/bom.json "$work/bom.json"
    rm -f model/bom.json firmware-config/bom.json tests/bom.json
    "$(binary $x86)" pull smol >/dev/null
    ln -s "$(model)" "$work/smol.gguf"
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$work/key"
    "$(binary $x86)" sign "$work/smol.gguf" --key "$work/key"
    cross/sbom.py "$work/bom.json" target/sbom.json "$work/smol.gguf"
    # what is in the file: our own program, a crate of it, and the model
    python3 - target/sbom.json "$(sha256sum <"$(model)" | cut -d' ' -f1)" <<'PYTHON'
import json, sys
bom = json.load(open(sys.argv[1]))
names = {c["name"] for c in bom["components"]}
models = [c for c in bom["components"] if c["type"] == "machine-learning-model"]
assert bom["metadata"]["component"]["name"] == "glowplug", bom["metadata"]
assert {"burn", "tokio"} <= names, sorted(names)
assert [h["content"] for c in models for h in c["hashes"]] == [sys.argv[2]], models
assert any(p["name"] == "glowplug:template_sha256" for p in models[0]["properties"]), models
print(f"target/sbom.json: {len(bom['components'])} components")
PYTHON
}

# paths of the machine that builds are not in the binary
twice() {
    local home=${CARGO_HOME:-$HOME/.cargo} sysroot n
    sysroot=$(rustc --print sysroot)
    for n in 1 2; do
        git clone -q . "$work/$n"
        (cd "$work/$n" &&
            RUSTFLAGS="--remap-path-prefix=$PWD=. --remap-path-prefix=$home=cargo --remap-path-prefix=$sysroot=rust" \
                cargo build --release -p glowplug)
        strip -o "$work/glowplug$n" "$work/$n/target/release/glowplug"
        rm -rf "${work:?}/$n"
    done
    sha256sum "$work/glowplug1" "$work/glowplug2"
    cmp "$work/glowplug1" "$work/glowplug2" || fail 'two builds differ'
    if grep -a -o -m1 -F -e "$work" -e "$home" "$work/glowplug1"; then fail 'a path of this machine is in the binary'; fi
}

[ $# -gt 0 ] || set -- build cores suites chat sizes debian sbom twice
for stage; do
    case $stage in
        build | cores | suites | chat | sizes | debian | gpu | sbom | twice) "$stage" ;;
        *) fail "no stage $stage: build, cores, suites, chat, sizes, debian, gpu, sbom, twice" ;;
    esac
done
