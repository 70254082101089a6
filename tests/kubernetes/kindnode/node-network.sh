#!/bin/bash
# Joins the pods of a kind cluster's nodes: tells the runtime this node's range of addresses, sets a route to each other node's, and
# hides pods behind the node's address from all who are not pods. What kindnetd does for the nodes that kind publishes.
set -eu
export KUBECONFIG=/etc/kubernetes/kubelet.conf
CONFIG=/etc/cni/net.d/10-node.conflist
self=$(hostname)

# Lines of a node's name, its address and its pods' range.
nodes() {
    kubectl get nodes --request-timeout=5s -o \
        'jsonpath={range .items[*]}{.metadata.name} {.status.addresses[?(@.type=="InternalIP")].address} {.spec.podCIDR}{"\n"}{end}'
}

configure() {
    mkdir -p "${CONFIG%/*}"
    cat >"$CONFIG.new" <<JSON
{
  "cniVersion": "0.4.0",
  "name": "node",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam-state", "routes": [{"dst": "0.0.0.0/0"}], "ranges": [[{"subnet": "$1"}]]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
JSON
    mv "$CONFIG.new" "$CONFIG"
}

# Traffic of pods goes behind the node's address, but for what goes to pods.
masquerade() {
    iptables -w -t nat -N NODE-NETWORK 2>/dev/null || true
    iptables -w -t nat -C POSTROUTING -j NODE-NETWORK 2>/dev/null || iptables -w -t nat -A POSTROUTING -j NODE-NETWORK
    iptables -w -t nat -C NODE-NETWORK -d "$1" -j RETURN 2>/dev/null || iptables -w -t nat -I NODE-NETWORK -d "$1" -j RETURN
    [ "$2" != own ] ||
        iptables -w -t nat -C NODE-NETWORK -s "$1" -j MASQUERADE 2>/dev/null || iptables -w -t nat -A NODE-NETWORK -s "$1" -j MASQUERADE
}

known=
# Nodes come in the first minute, and seldom later.
pause=1
while :; do
    if now=$(nodes 2>/dev/null) && [ "$now" != "$known" ]; then
        all=yes
        while read -r name address range; do
            # A node that just came has no range yet.
            [ -n "$range" ] || { all=; continue; }
            if [ "$name" = "$self" ]; then
                masquerade "$range" own
                configure "$range"
            else
                masquerade "$range" other
                ip route replace "$range" via "$address"
            fi
        done <<<"$now"
        [ -z "$all" ] || known=$now
        echo "$now"
    fi
    [ "$SECONDS" -lt 120 ] || pause=15
    sleep "$pause"
done
