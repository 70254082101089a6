//! The rules as they are set, word for word: what an operator reads in `--print` changes only on purpose.

use super::*;

fn full() -> CaptureConfig {
    CaptureConfig {
        exclude_ports: vec![9100, 22, 22],
        exclude_cidrs: ["10.1.0.0/16", "10.0.0.0/8", "fd00::/8", "10.0.0.0/8"]
            .map(|c| c.parse().unwrap())
            .to_vec(),
        exclude_uids: vec![1000, 33],
        dns: vec![
            "127.0.0.1:15053".parse().unwrap(),
            "[::1]:15053".parse().unwrap(),
        ],
        ..CaptureConfig::default()
    }
}

const MESH: [u16; 3] = [15008, 15020, 15053];

fn plan(config: &CaptureConfig) -> Plan {
    Plan::new(config, &[8080, 22, 8081, 15006], &MESH, true)
}

#[test]
fn nothing_told_captures_all_but_its_own() {
    let plan = Plan::new(&CaptureConfig::default(), &[], &MESH, true);
    assert!(!plan.guards());
    assert_eq!(
        plan.nft(Stage::Capture),
        r#"table inet tradewind
delete table inet tradewind
table inet tradewind {
  chain outbound {
    type nat hook output priority -100; policy accept;
    meta mark 0x2077 return
    oifname "lo" return
    meta l4proto tcp redirect to :15001
  }
  chain inbound {
    type nat hook prerouting priority -100; policy accept;
  }
}
"#
    );
}

#[test]
fn everything_told_stands_in_its_order() {
    assert_eq!(
        plan(&full()).nft(Stage::Capture),
        r#"table inet tradewind
delete table inet tradewind
table inet tradewind {
  chain outbound {
    type nat hook output priority -100; policy accept;
    meta mark 0x2077 return
    meta skuid { 33, 1000 } return
    meta l4proto { tcp, udp } th dport { 22, 9100 } return
    ip daddr { 10.0.0.0/8 } return
    ip6 daddr { fd00::/8 } return
    meta nfproto ipv4 udp dport 53 dnat ip to 127.0.0.1:15053
    meta nfproto ipv4 tcp dport 53 dnat ip to 127.0.0.1:15053
    meta nfproto ipv6 udp dport 53 dnat ip6 to [::1]:15053
    meta nfproto ipv6 tcp dport 53 dnat ip6 to [::1]:15053
    oifname "lo" return
    meta l4proto tcp redirect to :15001
  }
  chain inbound {
    type nat hook prerouting priority -100; policy accept;
    iifname "lo" return
    fib daddr type local tcp dport { 8080, 8081 } redirect to :15006
  }
}
"#
    );
}

#[test]
fn without_ipv6_that_family_is_left_alone() {
    let config = CaptureConfig {
        own: Own::Uid(1337),
        inbound_ports: InboundPorts::All,
        exclude_ports: vec![9100],
        ..CaptureConfig::default()
    };
    assert_eq!(
        Plan::new(&config, &[8080], &MESH, false).nft(Stage::Capture),
        r#"table inet tradewind
delete table inet tradewind
table inet tradewind {
  chain outbound {
    type nat hook output priority -100; policy accept;
    meta nfproto ipv6 return
    meta skuid 1337 return
    meta l4proto { tcp, udp } th dport { 9100 } return
    oifname "lo" return
    meta l4proto tcp redirect to :15001
  }
  chain inbound {
    type nat hook prerouting priority -100; policy accept;
    meta nfproto ipv6 return
    iifname "lo" return
    fib daddr type local tcp dport != { 22, 9100, 15001, 15006, 15008, 15020, 15053 } redirect to :15006
  }
}
"#
    );
}

#[test]
fn released_chains_stay_and_a_guard_stays_shut() {
    let open = "table inet tradewind\ndelete table inet tradewind\ntable inet tradewind {\n  chain outbound {\n    \
                type nat hook output priority -100; policy accept;\n    ct state established accept\n  }\n  chain inbound {\n    \
                type nat hook prerouting priority -100; policy accept;\n";
    let plan = plan(&full());
    let released = plan.nft(Stage::Release { guard: false });
    assert_eq!(released, format!("{open}  }}\n}}\n"));
    let guarded = plan.nft(Stage::Release { guard: true });
    let rules = "    iifname \"lo\" return\n    \
                 fib daddr type local tcp dport { 8080, 8081 } redirect to :15006\n";
    assert_eq!(guarded, format!("{open}{rules}  }}\n}}\n"));
    let gone = "table inet tradewind\ndelete table inet tradewind\n";
    assert_eq!(plan.nft(Stage::Gone), gone);
}

#[test]
fn iptables_says_the_same() {
    let v4 = plan(&full()).iptables(Family::V4, Stage::Capture, [false; 2]);
    assert_eq!(
        v4,
        "*nat
:TRADEWIND_OUTPUT - [0:0]
:TRADEWIND_INBOUND - [0:0]
-A TRADEWIND_OUTPUT -m mark --mark 0x2077 -j RETURN
-A TRADEWIND_OUTPUT -m owner --uid-owner 33 -j RETURN
-A TRADEWIND_OUTPUT -m owner --uid-owner 1000 -j RETURN
-A TRADEWIND_OUTPUT -p tcp -m multiport --dports 22,9100 -j RETURN
-A TRADEWIND_OUTPUT -p udp -m multiport --dports 22,9100 -j RETURN
-A TRADEWIND_OUTPUT -d 10.0.0.0/8 -j RETURN
-A TRADEWIND_OUTPUT -p udp --dport 53 -j DNAT --to-destination 127.0.0.1:15053
-A TRADEWIND_OUTPUT -p tcp --dport 53 -j DNAT --to-destination 127.0.0.1:15053
-A TRADEWIND_OUTPUT -o lo -j RETURN
-A TRADEWIND_OUTPUT -p tcp -j REDIRECT --to-ports 15001
-A TRADEWIND_INBOUND -i lo -j RETURN
-A TRADEWIND_INBOUND -p tcp -m addrtype --dst-type LOCAL -m multiport --dports 8080,8081 -j REDIRECT --to-ports 15006
-I OUTPUT -j TRADEWIND_OUTPUT
-I PREROUTING -j TRADEWIND_INBOUND
COMMIT
"
    );
    let v6 = plan(&full()).iptables(Family::V6, Stage::Capture, [true; 2]);
    assert!(
        v6.contains("-d fd00::/8 -j RETURN") && !v6.contains("10.0.0.0"),
        "{v6}"
    );
    assert!(
        v6.contains("--to-destination [::1]:15053") && !v6.contains("-I "),
        "{v6}"
    );
}

#[test]
fn iptables_removes_what_it_hooked_in() {
    let plan = plan(&CaptureConfig::default());
    let chains = ":TRADEWIND_OUTPUT - [0:0]\n:TRADEWIND_INBOUND - [0:0]\n";
    let gone = "-X TRADEWIND_OUTPUT\n-X TRADEWIND_INBOUND\nCOMMIT\n";
    let unhook = "-D OUTPUT -j TRADEWIND_OUTPUT\n-D PREROUTING -j TRADEWIND_INBOUND\n";
    for (hooked, lines) in [(true, unhook), (false, "")] {
        assert_eq!(
            plan.iptables(Family::V4, Stage::Gone, [hooked; 2]),
            format!("*nat\n{chains}{lines}{gone}")
        );
    }
    let released = plan.iptables(Family::V4, Stage::Release { guard: false }, [true; 2]);
    let tracked = "-A TRADEWIND_OUTPUT -m conntrack --ctstate ESTABLISHED -j RETURN\n";
    assert_eq!(released, format!("*nat\n{chains}{tracked}COMMIT\n"));
}

#[test]
fn many_ports_are_cut_into_what_one_match_takes() {
    let config = CaptureConfig {
        inbound_ports: InboundPorts::Only((1..=20).collect()),
        ..CaptureConfig::default()
    };
    let text = plan(&config).iptables(Family::V4, Stage::Capture, [true; 2]);
    let lines: Vec<_> = text.lines().filter(|l| l.contains("--dports")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[1].contains("16,17,18,19,20 "), "{text}");
}
