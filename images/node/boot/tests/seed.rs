//! The fuzz target's property, on good seeds that were changed in a few places.

use proptest::prelude::*;

#[path = "../fuzz/property.rs"]
mod property;

const JOIN_INFO: &str = include_str!("../src/testdata/join-info.yaml");
const NETWORK: &str =
    "version: 2\nethernets: {eth0: {match: {name: \"e*\"}, addresses: [10.0.2.2/24], gateway4: 10.0.2.1}}\n";

fn user_data() -> String {
    let indented = JOIN_INFO.trim_end().replace('\n', "\n    ");
    format!(
        "#cloud-config\nwrite_files:\n- path: /etc/marooned/join-info.yaml\n  permissions: '0600'\n  content: |\n    {indented}\n"
    )
}

/// A good text with some characters taken out and others put in.
fn changed() -> impl Strategy<Value = String> {
    let good = prop::sample::select(vec![
        user_data(),
        JOIN_INFO.to_owned(),
        JOIN_INFO.replace("mode: Kubelet", "mode: K3s"),
        NETWORK.to_owned(),
    ]);
    let put_in = prop_oneof![
        4 => prop::sample::select(vec!["\n", "'", "\"", ":", " ", "{", "}", "\\n", "0", "-", "&a", "*a", "é", "\0", "\r"])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let change = (any::<prop::sample::Index>(), 0usize..4, put_in);
    (good, prop::collection::vec(change, 0..4)).prop_map(|(good, changes)| {
        let mut text: Vec<char> = good.chars().collect();
        for (at, taken_out, put_in) in changes {
            let start = at.index(text.len() + 1);
            let end = (start + taken_out).min(text.len());
            text.splice(start..end, put_in.chars());
        }
        text.into_iter().collect()
    })
}

#[test]
fn the_good_ones_are_taken() {
    let yaml = marooned_node_boot::seed::join_info(&user_data()).unwrap();
    assert_eq!(yaml, JOIN_INFO);
    marooned_node_boot::join_info::parse(&yaml).unwrap();
    marooned_node_boot::seed::network(NETWORK).unwrap();
    property::holds(&user_data());
}

proptest! {
    #[test]
    fn it_holds_for_changed_seeds(text in changed()) {
        property::holds(&text);
    }

    #[test]
    fn it_holds_for_any_text(text in any::<String>()) {
        property::holds(&text);
    }

    #[test]
    fn it_holds_for_any_value_of_a_field(
        field in prop::sample::select(vec!["server_url", "token", "pod_uid", "taint_key", "node_name", "cluster_dns", "cluster_domain"]),
        value in any::<String>(),
    ) {
        let lines = JOIN_INFO.lines().map(|line| match line.split_once(": ") {
            Some((name, _)) if name == field => format!("{field}: {}\n", serde_json::json!(value)),
            _ => format!("{line}\n"),
        });
        property::holds(&lines.collect::<String>());
    }
}
