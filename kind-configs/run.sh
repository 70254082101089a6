#!/bin/sh
# A mesh of kind clusters from nothing: builds the image, makes two or three clusters, installs, joins, exports, and takes away, under calls,
# a region's pods, the controller that speaks for it, and its API server. tests/tests/kubernetes_mesh.rs does the same against API servers
# without containers, with the same names and port.
set -eu
# What is written down on the way holds a token.
umask 077

usage() {
    cat <<'TEXT'
usage: kind-configs/run.sh [--clusters 2|3] [--controllers N] [--helm] [--conformance PROGRAM]
                           [--node-image IMAGE] [--caller-image IMAGE] [--load IMAGE]... [--keep] [--dry-run]
       kind-configs/run.sh --delete [--dry-run]

Makes clusters with kind, joins them into one mesh, and shows calls that go to another region and come home, and that go on while a
controller and an API server are away. A step that is done already does nothing: after a failure the same command goes on.

  --clusters N  two clusters (west, central) or three (east as well); three without it
  --controllers N
                controllers of each cluster, one to three; two without it
  --helm        install with `helm upgrade --install` from deploy/chart/tradewind, instead of what the image's program prints
  --conformance PROGRAM
                at the end, run the conformance suite of the Multi-Cluster Services API between the clusters: PROGRAM is what
                `go test -c` makes of sigs.k8s.io/mcs-api/conformance. It leaves report.yaml and report.html here. Kubernetes 1.36
  --node-image IMAGE
                what kind makes nodes of; without it what this version of kind fetches by itself
  --caller-image IMAGE
                an image of docker's with a shell and curl, which is loaded into the nodes for the caller; without it they fetch agnhost
  --load IMAGE  another image of docker's to load into the nodes, such as those of the suite; repeatable
  --keep        leave the clusters when all is shown; without it they are deleted then, and stay only after a failure
  --delete      delete the kind clusters west, central and east, and do nothing else
  --dry-run     print each command instead of running it, and ask nobody; capitals stand for what would have been answered

Where no registry of images is reached, tests/kubernetes/kindnode/make.sh makes these images and those that the Dockerfile builds on.

To stdout go a line for each call, `CLUSTER POD` or `FAILED REASON`, and at the end how many each cluster answered. All else goes to stderr.

Exit codes:
  0  good: no call failed, and who should answer did
  1  calls failed, or a command did, or specs of the suite
  2  the command line is wrong, or a program is missing
  3  no container engine answers
  4  waited as long as allowed
TEXT
}

IMAGE=tradewind:kind
SYSTEM=tradewind-system
# Of every node: the only port that clusters need of each other.
PORT=31443
DATA=/var/lib/tradewind/data
FOUNDER=west
# Seconds for anything that pods must first start for.
SOON=300
# Answers in a row by which it is said who serves.
IN_A_ROW=25
# Seconds for which an API server is away.
AWAY=60
# What the kubelet runs an API server by, and where that lies meanwhile.
MANIFEST=/etc/kubernetes/manifests/kube-apiserver.yaml
ASIDE=/etc/kubernetes/kube-apiserver.yaml

say() { printf '%s\n' "$*" >&2; }

# fail CODE WHAT HINT
fail() {
    say "error: $2"
    say "hint: $3"
    exit "$1"
}
ON='the same command goes on from here'

# Prints a command as a shell reads it.
show() {
    line=
    for word in "$@"; do
        case $word in
            '' | *[!A-Za-z0-9_./:=@,%+-]*) word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'" ;;
        esac
        line="$line${line:+ }$word"
    done
    printf '%s\n' "$line" >&3
}

# run COMMAND...
run() {
    if [ "$dry" ]; then
        show "$@"
    else
        "$@" >&2 || fail 1 "failed: $*" "$ON"
    fi
}

# wait_for COMMAND...: the same of one that waits, and fails when it waited long enough.
wait_for() {
    if [ "$dry" ]; then
        show "$@"
    else
        "$@" >&2 || fail 4 "waited in vain: $*" "\`kubectl get pods -A\` with the same --context shows who does not come up; $ON"
    fi
}

# soon COMMAND...: runs it each second until it is good.
soon() {
    if [ "$dry" ]; then
        show "$@"
        return
    fi
    end=$(($(date +%s) + SOON))
    until "$@" >"$work/said" 2>&1; do
        [ "$(date +%s)" -lt "$end" ] || fail 4 "not good after $SOON s: $*: $(cat "$work/said")" "$ON"
        sleep 1
    done
    # Whatever it said ends its line.
    awk 1 "$work/said" >&2
}

# ask STAND_IN COMMAND...: what it answers, in a dry run the stand-in.
ask() {
    stand_in=$1
    shift
    if [ "$dry" ]; then
        show "$@"
        printf '%s\n' "$stand_in"
    else
        "$@" || fail 1 "failed: $*" "$ON"
    fi
}

check_programs() {
    missing=
    get=
    for program in docker kind kubectl $helm; do
        command -v "$program" >/dev/null && continue
        missing="$missing $program"
        case $program in
            docker) get="$get docker: https://docs.docker.com/engine/install/" ;;
            kind) get="$get kind: go install sigs.k8s.io/kind@v0.30.0" ;;
            kubectl) get="$get kubectl: https://kubernetes.io/docs/tasks/tools/" ;;
            helm) get="$get helm: go install helm.sh/helm/v4/cmd/helm@v4.2.4" ;;
        esac
    done
    [ -z "$missing" ] || fail 2 "not in PATH:$missing" "get$get"
    [ -z "$suite" ] || [ -x "$suite" ] || fail 2 "$suite is no program" "docs/mcs-conformance.md says how it is made"
    docker info >"$work/said" 2>&1 || fail 3 "docker's engine does not answer: $(tail -n 1 "$work/said")" "start it; \`docker info\` has to work"
}

region() {
    case $1 in
        west) echo us-west ;;
        central) echo us-central ;;
        east) echo eu-west ;;
    esac
}

create() {
    ask '' kind get clusters >"$work/there"
    if grep -qx "$1" "$work/there"; then
        run kind export kubeconfig --name "$1"
    else
        run kind create cluster --config "$here/$1.yaml" ${node_image:+--image "$node_image"} --wait "${SOON}s"
    fi
    # shellcheck disable=SC2086 # words
    run kind load docker-image "$IMAGE" $images --name "$1"
}

# Where a cluster's gateways are reached from the others: kind's nodes share a network of docker's.
door() {
    address=$(ask "NODE_OF_$1" kubectl --context "kind-$1" get nodes \
        -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')
    echo "$address:$PORT"
}

# install CLUSTER FOUNDS
install() {
    name=$1
    gateways=$(door "$name")
    set -- \
        --set "cluster.name=$name" \
        --set "cluster.region=$(region "$name")" \
        --set "cluster.gateways=$gateways" \
        --set "cluster.found=$2" \
        --set image.tag=kind \
        --set image.pullPolicy=Never \
        --set "controller.replicas=$controllers" \
        --set gateway.replicas=1 \
        --set dns.replicas=1 \
        --set gateway.service.type=NodePort \
        --set "gateway.service.nodePort=$PORT"
    if [ "$helm" ]; then
        run helm upgrade --install tradewind "$root/deploy/chart/tradewind" --kube-context "kind-$name" \
            --namespace "$SYSTEM" --create-namespace "$@"
        return
    fi
    # The image's own program renders, so nothing but the image is of this version.
    ask '' docker run --rm "$IMAGE" install "$@" >"$work/install-$name.yaml"
    run kubectl --context "kind-$name" apply --server-side --force-conflicts -f "$work/install-$name.yaml"
}

# Makes an installed cluster a member: a token of the founder's, told to the new cluster's waiting controller.
join() {
    ready=$(ask '' kubectl --context "kind-$1" get pod tradewind-controller-0 -n "$SYSTEM" --ignore-not-found \
        -o 'jsonpath={.status.containerStatuses[0].ready}')
    if [ "$ready" = true ]; then
        say "$1 is a member"
        return
    fi
    address=$(door "$FOUNDER")
    token=$(ask TOKEN kubectl --context "kind-$FOUNDER" exec tradewind-controller-0 -n "$SYSTEM" -c controller -- \
        /usr/local/bin/tradewind token create --cluster "$1" --data-dir "$DATA")
    cat >"$work/join-$1.yaml" <<TEXT
apiVersion: v1
kind: Secret
metadata: {name: tradewind-join, namespace: $SYSTEM}
stringData: {address: '$address', token: '$token'}
TEXT
    run kubectl --context "kind-$1" apply -f "$work/join-$1.yaml"
    # It would wait minutes before it looks again.
    run kubectl --context "kind-$1" delete pod tradewind-controller-0 -n "$SYSTEM" --ignore-not-found
    wait_for kubectl --context "kind-$1" rollout status statefulset/tradewind-controller -n "$SYSTEM" "--timeout=${SOON}s"
    run kubectl --context "kind-$1" delete secret tradewind-join -n "$SYSTEM"
}

is_well() {
    for what in statefulset/tradewind-controller deployment/tradewind-gateway deployment/tradewind-dns; do
        wait_for kubectl --context "kind-$1" rollout status "$what" -n "$SYSTEM" "--timeout=${SOON}s"
    done
    wait_for kubectl --context "kind-$1" exec tradewind-controller-0 -n "$SYSTEM" -c controller -- \
        /usr/local/bin/tradewind status --wait "${SOON}s" --data-dir "$DATA"
}

# What `tradewind check` finds, asked from kind's own network, where API servers go by their nodes' names.
check() {
    ask '' kind get kubeconfig --internal --name "$1" >"$work/kubeconfig-$1"
    run docker run --rm --network kind --user 0 --volume "$work/kubeconfig-$1:/kubeconfig:ro" "$IMAGE" \
        check --kubeconfig /kubeconfig --context "kind-$1"
}

# Has CoreDNS send names of the clusterset to Tradewind's DNS server.
forward_names() {
    server=$(ask "DNS_OF_$1" kubectl --context "kind-$1" get service tradewind-dns -n "$SYSTEM" -o 'jsonpath={.spec.clusterIP}')
    ask '' kubectl --context "kind-$1" get configmap coredns -n kube-system -o 'jsonpath={.data.Corefile}' >"$work/Corefile"
    cat >"$work/block" <<TEXT
clusterset.local:53 {
    errors
    cache 5
    forward . $server
}
TEXT
    sed '/^clusterset\.local:53 {/,/^}/d' "$work/Corefile" | cat - "$work/block" >"$work/Corefile.new"
    if cmp -s "$work/Corefile" "$work/Corefile.new"; then
        say "CoreDNS of $1 knows"
        return
    fi
    say "CoreDNS of $1 gets:
$(cat "$work/block")"
    # YAML's text block, which the whole file is put into.
    { printf 'data:\n  Corefile: |\n' && sed 's/^/    /' "$work/Corefile.new"; } >"$work/coredns-$1.yaml"
    run kubectl --context "kind-$1" patch configmap coredns -n kube-system --type merge --patch-file "$work/coredns-$1.yaml"
    run kubectl --context "kind-$1" rollout restart deployment/coredns -n kube-system
    wait_for kubectl --context "kind-$1" rollout status deployment/coredns -n kube-system "--timeout=${SOON}s"
}

deploy() {
    sed "s/CLUSTER/$1/" "$here/payments.yaml" >"$work/payments-$1.yaml"
    soon kubectl --context "kind-$1" apply -f "$work/payments-$1.yaml"
}

# Appends the calls that the caller has written since it was looked last, and prints them.
look() {
    kubectl --context "kind-$FOUNDER" logs deployment/caller -n shop -c app --tail=5000 >"$work/log" 2>"$work/said" || return 0
    awk -v last="$last" '$1 > last + 0' "$work/log" >"$work/new"
    [ -s "$work/new" ] || return 0
    last=$(tail -n 1 "$work/new" | cut -d ' ' -f 1)
    cat "$work/new" >>"$work/calls"
    # What was called before this run is neither shown nor counted.
    [ "$quiet" ] || sed 's/^[0-9]* //; /^FAILED/!s,/, ,' "$work/new"
}

# settles AFTER WHOM: waits until so many answers in a row came from clusters that the pattern WHOM matches.
settles() {
    say "==> $1: $2 is to serve"
    if [ "$dry" ]; then
        show kubectl --context "kind-$FOUNDER" logs deployment/caller -n shop -c app --tail=5000
        return
    fi
    begin=$(date +%s)
    first=$(($(wc -l <"$work/calls") + 1))
    until
        look
        tail -n "+$first" "$work/calls" | tail -n "$IN_A_ROW" |
            awk -v whom="^($2)/" -v wanted="$IN_A_ROW" '$2 ~ whom { good++ } END { exit good < wanted }'
    do
        [ $(($(date +%s) - begin)) -lt "$SOON" ] || fail 4 "$2 does not serve alone $SOON s after $1; the last call: $(tail -n 1 "$work/calls")" "$ON"
        sleep 1
    done
    say "$2 serves alone after $(($(date +%s) - begin)) s, with $IN_A_ROW answers in a row"
}

scale() { run kubectl --context "kind-$FOUNDER" scale deployment/payments -n shop "--replicas=$1"; }

# The pod of the controller that publishes for the founder. With several, `status` has a line for each, with its address.
speaker() {
    ask '  1  tradewind-controller-0.x  yes  yes  1' kubectl --context "kind-$FOUNDER" exec tradewind-controller-0 -n "$SYSTEM" -c controller -- \
        /usr/local/bin/tradewind status --data-dir "$DATA" >"$work/status"
    awk 'NF > 3 && $(NF - 1) == "yes" { for (i = 1; i < NF; i++) if ($i ~ /^tradewind-controller-[0-9]+\./) pod = $i }
        END { sub(/\..*/, "", pod); print pod ? pod : "tradewind-controller-0" }' "$work/status"
}

loses_its_speaker() {
    pod=$(speaker)
    say "==> $pod speaks for $FOUNDER, and goes"
    run kubectl --context "kind-$FOUNDER" delete pod "$pod" -n "$SYSTEM"
    settles "the loss of the controller that speaks" "$FOUNDER"
    is_well "$FOUNDER"
}

loses_its_api_server() {
    say "==> the API server of $FOUNDER is away for $AWAY s"
    run docker exec "$FOUNDER-control-plane" mv "$MANIFEST" "$ASIDE"
    [ "$dry" ] || away=yes
    soon sh -c "! kubectl --context kind-$FOUNDER --request-timeout=2s get --raw /readyz"
    [ "$dry" ] || sleep "$AWAY"
    run docker exec "$FOUNDER-control-plane" mv "$ASIDE" "$MANIFEST"
    away=
    soon kubectl --context "kind-$FOUNDER" get --raw /readyz
    settles "the return of the API server" "$FOUNDER"
}

# Whatever ended the script meanwhile.
bring_back() { [ -z "$away" ] || docker exec "$FOUNDER-control-plane" mv "$ASIDE" "$MANIFEST" >&2; }

story() {
    : >"$work/calls"
    last=0
    quiet=yes
    [ "$dry" ] || look
    quiet=
    settles "the start" "$FOUNDER"
    # From here on no call may fail.
    from=0
    [ "$dry" ] || from=$(wc -l <"$work/calls")
    soon kubectl --context "kind-$FOUNDER" exec deployment/caller -n shop -c app -- \
        curl -sS -f -m 10 http://payments.shop.svc.clusterset.local/
    scale 0
    settles "scaling to none" "$others"
    scale 2
    settles "scaling up" "$FOUNDER"
    loses_its_speaker
    loses_its_api_server
}

# Pods of the suite's namespaces get a proxy: a clusterset's addresses are nobody's without one.
conformance() {
    contexts=
    for cluster in $clusters; do
        contexts="$contexts${contexts:+,}kind-$cluster"
        run kubectl --context "kind-$cluster" apply -f "$here/conformance.yaml"
        soon sh -c "kubectl --context kind-$cluster create namespace mcs-conformance-0 --dry-run=server -o yaml | grep 'tradewind.io/injection: enabled'"
    done
    ask '' kubectl config view --raw --flatten >"$work/kubeconfig"
    say "==> the conformance suite between $contexts; its report goes to $(pwd)/report.yaml"
    # Two specs ask for the pods' own addresses in other clusters, and no pod is reached by them there.
    run "$suite" -kubeconfig "$work/kubeconfig" -contexts "$contexts" -project tradewind \
        '--ginkgo.label-filter=!(DNS && Headless) || EndpointSlice'
    for cluster in $clusters; do
        run kubectl --context "kind-$cluster" delete -f "$here/conformance.yaml"
    done
}

summary() {
    tail -n "+$((from + 1))" "$work/calls" >"$work/counted"
    failed=$(grep -c '^[0-9]* FAILED' "$work/counted" || true)
    echo "calls: $(wc -l <"$work/counted"), failed: $failed"
    grep -v '^[0-9]* FAILED' "$work/counted" | cut -d ' ' -f 2 | cut -d / -f 1 | sort | uniq -c |
        while read -r count cluster; do echo "answered by $cluster: $count"; done
    [ "$failed" -eq 0 ] || fail 1 "$failed calls failed; lines that begin with FAILED say how" \
        "the clusters stay: kubectl --context kind-$FOUNDER logs deployment/caller -n shop -c tradewind-proxy"
}

delete() {
    for cluster in "$@"; do
        run kind delete cluster --name "$cluster"
    done
}

clusters='west central east'
controllers=2
helm=
suite=
keep=
node_image=
caller_image=
images=
away=
only_delete=
dry=
while [ $# -gt 0 ]; do
    case $1 in
        --clusters)
            case ${2-} in
                2) clusters='west central' ;;
                3) ;;
                *) fail 2 "--clusters is 2 or 3, not '${2-}'" "see --help" ;;
            esac
            shift
            ;;
        --controllers)
            case ${2-} in
                [123]) controllers=$2 ;;
                *) fail 2 "--controllers is 1, 2 or 3, not '${2-}'" "see --help" ;;
            esac
            shift
            ;;
        --helm) helm=helm ;;
        --conformance)
            [ -n "${2-}" ] || fail 2 "$1 names no program" "see --help"
            case $2 in
                /*) suite=$2 ;;
                *) suite=$PWD/$2 ;;
            esac
            shift
            ;;
        --node-image | --caller-image | --load)
            [ -n "${2-}" ] || fail 2 "$1 names no image" "see --help"
            case $1 in
                --node-image) node_image=$2 ;;
                --caller-image)
                    caller_image=$2
                    images="$images $2"
                    ;;
                *) images="$images $2" ;;
            esac
            shift
            ;;
        --keep) keep=yes ;;
        --delete) only_delete=yes ;;
        --dry-run) dry=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail 2 "no such argument: $1" "see --help" ;;
    esac
    shift
done

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
work=$(mktemp -d)
trap 'bring_back; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# What a dry run prints must not end in what asks for an answer.
exec 3>&1

[ "$dry" ] || check_programs
if [ "$only_delete" ]; then
    delete west central east
    exit 0
fi

# Clusters but the founder, as words and as a pattern.
rest=${clusters#"$FOUNDER "}
others=$(echo "$rest" | tr ' ' '|')

say "==> the image"
run docker build --file "$root/deploy/Dockerfile" --tag "$IMAGE" "$root"
for cluster in $clusters; do
    say "==> cluster $cluster"
    create "$cluster"
done
say "==> $FOUNDER founds"
install "$FOUNDER" true
is_well "$FOUNDER"
for cluster in $rest; do
    say "==> $cluster joins"
    install "$cluster" false
    join "$cluster"
done
for cluster in $clusters; do
    say "==> $cluster: well, and its names"
    is_well "$cluster"
    forward_names "$cluster"
    check "$cluster"
done
say "==> the application"
for cluster in $clusters; do
    deploy "$cluster"
done
sed "${caller_image:+s,^\( *image:\) .*,\1 $caller_image,}" "$here/caller.yaml" >"$work/caller.yaml"
soon kubectl --context "kind-$FOUNDER" apply -f "$work/caller.yaml"
for cluster in $clusters; do
    wait_for kubectl --context "kind-$cluster" rollout status deployment/payments -n shop "--timeout=${SOON}s"
done
wait_for kubectl --context "kind-$FOUNDER" rollout status deployment/caller -n shop "--timeout=${SOON}s"
story
[ "$dry" ] || summary
[ -z "$suite" ] || conformance
if [ "$keep" ]; then
    say "the clusters stay: kubectl --context kind-$FOUNDER get pods -A; away with $0 --delete"
else
    # shellcheck disable=SC2086 # words
    delete $clusters
fi
