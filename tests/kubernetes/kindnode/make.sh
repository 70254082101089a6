#!/bin/sh
# Makes, from package registries alone, the images that kind-configs/run.sh otherwise gets from registries of images: a node for kind,
# who calls in the story, and what deploy/Dockerfile builds on. Needs docker with BuildKit, debootstrap, Go, a C compiler and Rust;
# root, as debootstrap does. What was made already is not made again.
set -eu

usage() {
    cat <<'TEXT'
usage: tests/kubernetes/kindnode/make.sh DIR

Builds below DIR, where about 3 GB are needed, and leaves in docker:
  debian:bookworm-slim, rust:1.95-bookworm   what deploy/Dockerfile builds on
  tradewind-kind-node:VERSION                a node of kind: kind-configs/run.sh --node-image tradewind-kind-node:VERSION
  tradewind-kind-caller:1                    who calls: kind-configs/run.sh --caller-image tradewind-kind-caller:1
  alpine/socat:1.7.4.4, nicolaka/netshoot:v0.15   programs of the conformance suite: kind-configs/run.sh --load NAME
and kind itself in DIR/bin.
TEXT
}

# Versions that belong together: Kubernetes as tests/kubernetes/testenv has it; what its kubeadm asks for; what its kind brings.
KIND=v0.33.0
KUBERNETES=v1.36.3
COREDNS=v1.14.2
CONTAINERD=v2.3.4
CRICTL=v1.36.0
CNI=v1.9.1
STORAGE=v0.0.30
RUST=1.95
# Of which patch, as rustup calls it.
TOOLCHAIN=1.95.0
DEBIAN=bookworm

NODE=tradewind-kind-node:$KUBERNETES
CALLER=tradewind-kind-caller:1
# As the conformance suite calls what its pods run. Here it is a Debian with the same programs.
SUITE='alpine/socat:1.7.4.4 nicolaka/netshoot:v0.15'

case ${1-} in
    '' | -h | --help) usage; exit 0 ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/bin"
dir=$(cd "$1" && pwd)
export DOCKER_BUILDKIT=1 CGO_ENABLED=0 GOFLAGS=-mod=mod GOWORK=off

say() { printf '%s\n' "$*" >&2; }
there() { docker image inspect "$1" >/dev/null 2>&1; }

# module PATH VERSION: where its source is.
module() { go mod download -json "$1@$2" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }

# programs PATH VERSION FLAGS NAME=PACKAGE...: builds programs of a module as its own go.mod has it, replacements with it, which
# `go install` refuses.
programs() {
    path=$1 version=$2 flags=$3
    shift 3
    for one in "$@"; do
        [ -x "$dir/bin/${one%%=*}" ] && continue
        say "==> ${one%%=*} $version"
        source=$dir/source/$(basename "$path")
        if [ ! -d "$source" ]; then
            mkdir -p "$dir/source"
            cp -r "$(module "$path" "$version")" "$source"
            chmod -R u+w "$source"
        fi
        (cd "$source" && go build -ldflags "-s -w $flags" -o "$dir/bin/${one%%=*}" "${one#*=}")
    done
}

# Kubernetes and etcd, whose modules replace others by directories: in versions and with replacements as testenv has them.
kubernetes() {
    mkdir -p "$dir/kubernetes"
    cp "$here/../testenv/go.mod" "$here/../testenv/go.sum" "$dir/kubernetes/"
    version=k8s.io/component-base/version
    minor=${KUBERNETES#v1.}
    for program in kubeadm kubelet kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy etcd; do
        [ -x "$dir/bin/$program" ] && continue
        case $program in
            etcd) package=go.etcd.io/etcd/server/v3 ;;
            *) package=k8s.io/kubernetes/cmd/$program ;;
        esac
        say "==> $program"
        (cd "$dir/kubernetes" && go build \
            -ldflags "-s -w -X $version.gitVersion=$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=${minor%.*}" \
            -o "$dir/bin/$program" "$package")
    done
}

debian() {
    there "debian:$DEBIAN-slim" && return
    say "==> debian:$DEBIAN-slim"
    rm -rf "$dir/debian"
    debootstrap --variant=minbase --include=ca-certificates "$DEBIAN" "$dir/debian" >&2
    # Whom this machine believes beside the public authorities, builds in images have to believe too.
    cp -r /usr/local/share/ca-certificates/. "$dir/debian/usr/local/share/ca-certificates/"
    chroot "$dir/debian" update-ca-certificates >&2
    rm -rf "$dir"/debian/var/cache/apt/archives/*.deb
    tar -C "$dir/debian" -c . | docker import --change 'CMD ["bash"]' - "debian:$DEBIAN-slim" >&2
    rm -rf "$dir/debian"
}

rust() {
    there "rust:$RUST-$DEBIAN" && return
    say "==> rust:$RUST-$DEBIAN"
    sysroot=$(rustup run "$TOOLCHAIN" rustc --print sysroot)
    docker build --tag "rust:$RUST-$DEBIAN" --file - "$(readlink -f "$sysroot")" >&2 <<TEXT
FROM debian:$DEBIAN-slim
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ libc6-dev make pkg-config git curl && rm -rf /var/lib/apt/lists/*
COPY . /usr/local/rust
ENV PATH=/usr/local/cargo/bin:/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/usr/local/cargo
TEXT
}

# image TARGET TAG [PROGRAM]
image() {
    docker build --quiet --file "$here/Dockerfile" --target "$1" --build-arg "PROGRAM=${3-}" --tag "$2" "$dir/context" >&2
    echo "$2" >>"$dir/images"
}

# const NAME FILE: a constant of kind's, which gives an image.
const() { sed -n "s/^const $1 = \"\(.*\)\"$/\1/p" "$kind/pkg/build/nodeimage/$2"; }

node() {
    there "$NODE" && return
    say "==> $NODE"
    kind=$(module sigs.k8s.io/kind "$KIND")
    context=$dir/context
    rm -rf "$context"
    mkdir -p "$context"
    ln "$here/node-network.sh" "$context/" 2>/dev/null || cp "$here/node-network.sh" "$context/"
    cp "$here/node-network.service" "$here/network.yaml" "$here/kubelet.yaml" "$context/"
    cp -r "$kind/images/base/files" "$context/kind"
    chmod -R u+w,a+rX "$context/kind"
    mkdir "$context/bin"
    for program in "$dir"/bin/*; do ln "$program" "$context/bin/"; done
    storage=$(const storageProvisionerImage const_storage.go)
    helper=$(const storageHelperImage const_storage.go)
    # The manifest is a constant of Go's, put together with the images' names.
    sed -n '/^const defaultStorageManifest/,/^`$/p' "$kind/pkg/build/nodeimage/const_storage.go" |
        sed "s,\` + storageProvisionerImage + \`,$storage,; s,\` + storageHelperImage + \`,$helper,; s/^const.*//; s/^\`$//" >"$context/storage.yaml"

    : >"$dir/images"
    # What kubeadm of this version says that it starts.
    "$dir/bin/kubeadm" config images list --kubernetes-version "$KUBERNETES" >"$dir/required"
    while read -r name; do
        case $name in
            */kube-proxy:*) image kube-proxy "$name" ;;
            */coredns:*) image coredns "$name" coredns ;;
            */pause:*) image pause "$name" pause ;;
            */etcd:*) image component "$name" etcd ;;
            *)
                program=${name##*/}
                image component "$name" "${program%:*}"
                ;;
        esac
    done <"$dir/required"
    image pause "$(sed -n 's/^ *sandbox_image = "\(.*\)"$/\1/p' "$context/kind/etc/containerd/config.toml")" pause
    image component "$storage" local-path-provisioner
    image shell "$helper"
    docker build --quiet --file "$here/Dockerfile" --target base --tag "$NODE-empty" "$context" >&2
    fill
}

# A node starts with images that nobody has to fetch: they are imported by its own runtime, as kind does it.
fill() {
    container=$(docker run --detach --privileged --entrypoint sleep "$NODE-empty" infinity)
    trap 'docker rm --force --volumes "$container" >/dev/null' EXIT
    docker exec "$container" sh -c "echo $KUBERNETES >/kind/version"
    docker exec --detach "$container" containerd
    tries=0
    until docker exec "$container" ctr version >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ] || { say "error: containerd does not answer in the node"; exit 1; }
        sleep 1
    done
    # Images were made in a row and share nothing: one archive each keeps names apart.
    while read -r name; do
        docker save "$name" | docker exec --interactive "$container" \
            ctr --namespace=k8s.io images import --no-unpack --digests --snapshotter=overlayfs - >&2
    done <"$dir/images"
    docker exec "$container" ctr --namespace=k8s.io images list -q >&2
    docker exec "$container" pkill containerd
    docker commit --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' "$container" "$NODE" >&2
    docker rm --force --volumes "$container" >/dev/null
    trap - EXIT
}

programs sigs.k8s.io/kind "$KIND" '' kind=.
kubernetes
programs github.com/containerd/containerd/v2 "$CONTAINERD" "-X github.com/containerd/containerd/v2/version.Version=$CONTAINERD" \
    containerd=./cmd/containerd ctr=./cmd/ctr containerd-shim-runc-v2=./cmd/containerd-shim-runc-v2
programs sigs.k8s.io/cri-tools "$CRICTL" '' crictl=./cmd/crictl
programs github.com/containernetworking/plugins "$CNI" '' \
    host-local=./plugins/ipam/host-local loopback=./plugins/main/loopback ptp=./plugins/main/ptp portmap=./plugins/meta/portmap
programs github.com/coredns/coredns "$COREDNS" '' coredns=.
programs github.com/rancher/local-path-provisioner "$STORAGE" '' local-path-provisioner=.
[ -x "$dir/bin/pause" ] ||
    ${CC:-cc} -Os -static -DVERSION="$KUBERNETES" -o "$dir/bin/pause" "$(module k8s.io/kubernetes "$KUBERNETES")/build/pause/linux/pause.c"
debian
rust
node
mkdir -p "$dir/context"
there "$CALLER" || image caller "$CALLER"
for name in $SUITE; do
    there "$name" || image suite "$name"
done
say "$NODE, $CALLER, $SUITE are in docker; kind is $dir/bin/kind"
