//! What the runtime asks: environment and standard input, read strictly where something is to be made, and leniently
//! where it is to be taken away.

use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::Value;

use super::code;
use super::failure::Failure;
use crate::nft::{HostPort, Protocol};

/// Versions of the specification that the plugin speaks, the oldest first.
pub(super) const VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];
/// What `GC` calls the attachments to be kept.
const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

/// The plugin's configuration.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    pub(super) cni_version: String,
    /// The guest's link to the launcher.
    pub(super) uplink: String,
    /// The port that is not the pod's.
    pub(super) kubelet_port: u16,
    /// The guest's pod uses the guest's network, and no other pod gets one.
    pub(super) host_network: bool,
    #[serde(rename = "runtimeConfig", default)]
    of_this_pod: OfThisPod,
}

/// What the runtime adds for a plugin that has the capability.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
struct OfThisPod {
    #[serde(default)]
    port_mappings: Vec<PortMapping>,
}

/// containerd capitalizes the fields; the convention for the capability does not.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct PortMapping {
    #[serde(alias = "HostPort")]
    host_port: u16,
    #[serde(alias = "ContainerPort")]
    container_port: u16,
    #[serde(alias = "Protocol")]
    protocol: Protocol,
    #[serde(rename = "hostIP", alias = "HostIP", default)]
    host_ip: String,
}

impl Config {
    /// The `hostPort`s of the pod that are at its address, those for this address alone first. One that is for another
    /// address of a host, such as 127.0.0.1, leads nowhere.
    ///
    /// # Errors
    /// One is the kubelet's port.
    pub(super) fn host_ports(&self, address: Ipv4Addr) -> Result<Vec<HostPort>, Failure> {
        let own = address.to_string();
        let here = ["", "0.0.0.0", &own];
        let mappings = self.of_this_pod.port_mappings.iter();
        let mut mappings: Vec<_> = mappings
            .filter(|mapping| here.contains(&mapping.host_ip.as_str()))
            .collect();
        mappings.sort_by_key(|mapping| mapping.host_ip != own);
        let ports = mappings.into_iter().map(|mapping| HostPort {
            protocol: mapping.protocol,
            host: mapping.host_port,
            container: mapping.container_port,
        });
        let ports: Vec<_> = ports.collect();
        let kubelets = |port: &HostPort| port.protocol == Protocol::Tcp && port.host == self.kubelet_port;
        if ports.iter().any(kubelets) {
            let message = format!(
                "hostPort {} is where the kubelet of this node listens: choose another one",
                self.kubelet_port
            );
            return Err(Failure::new(code::REFUSED, message));
        }
        Ok(ports)
    }
}

/// The pod's end of the veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) container: String,
    pub(super) interface: String,
    /// Path of the pod's network namespace.
    pub(super) namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Add(Attachment, Config),
    Del { container: String },
    Check(Attachment),
    Status(Config),
    Gc { valid: Vec<String> },
    Version,
}

#[derive(Deserialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container: String,
}

impl Request {
    /// Reads the command from the variables and the input that the runtime gave.
    pub(super) fn parse(variable: impl Fn(&str) -> Option<String>, input: &str) -> Result<Self, Failure> {
        let get = |name| {
            let missing = || Failure::new(code::ENVIRONMENT, format!("{name} is missing"));
            variable(name)
                .filter(|value| !value.is_empty())
                .ok_or_else(missing)
        };
        let container = || checked_container(get("CNI_CONTAINERID")?);
        let attachment = || {
            Ok(Attachment {
                container: container()?,
                interface: checked_interface(get("CNI_IFNAME")?, code::ENVIRONMENT)?,
                namespace: get("CNI_NETNS")?,
            })
        };
        match get("CNI_COMMAND")?.as_str() {
            "ADD" => Ok(Self::Add(attachment()?, config(input)?)),
            "DEL" => Ok(Self::Del {
                container: container()?,
            }),
            "CHECK" => Ok(Self::Check(attachment()?)),
            "STATUS" => Ok(Self::Status(config(input)?)),
            "GC" => valid(input).map(|valid| Self::Gc { valid }),
            "VERSION" => Ok(Self::Version),
            other => Err(Failure::new(
                code::ENVIRONMENT,
                format!("CNI_COMMAND {other:?} is unknown"),
            )),
        }
    }
}

/// The version that the runtime speaks, as far as that can be told; ours else.
pub(super) fn version_of(input: &str) -> &'static str {
    let asked: Value = serde_json::from_str(input).unwrap_or_default();
    let known = VERSIONS
        .into_iter()
        .find(|version| asked["cniVersion"] == *version);
    known.unwrap_or(VERSIONS[0])
}

fn parse<T: for<'de> Deserialize<'de>>(input: &str) -> Result<T, Failure> {
    serde_json::from_str(input).map_err(|error| {
        let code = if error.is_data() {
            code::CONFIG
        } else {
            code::DECODE
        };
        Failure::new(code, format!("the network configuration cannot be used: {error}"))
    })
}

fn config(input: &str) -> Result<Config, Failure> {
    let config: Config = parse(input)?;
    if !VERSIONS.contains(&config.cni_version.as_str()) {
        let message = format!(
            "CNI version {} is unknown; {VERSIONS:?} are not",
            config.cni_version
        );
        return Err(Failure::new(code::VERSION, message));
    }
    checked_interface(config.uplink.clone(), code::CONFIG)?;
    Ok(config)
}

fn valid(input: &str) -> Result<Vec<String>, Failure> {
    let config: Value = parse(input)?;
    // Absent is not empty: taking it for empty would remove a pod's network.
    let listed = config.get(VALID_ATTACHMENTS).cloned().unwrap_or_default();
    let listed: Vec<Valid> = serde_json::from_value(listed)
        .map_err(|error| Failure::new(code::CONFIG, format!("{VALID_ATTACHMENTS}: {error}")))?;
    Ok(listed.into_iter().map(|valid| valid.container).collect())
}

/// As the specification has it; the id goes into a file, so nothing else is allowed in it.
fn checked_container(id: String) -> Result<String, Failure> {
    let begins_well = id.starts_with(|c: char| c.is_ascii_alphanumeric());
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if begins_well && id.chars().all(allowed) {
        Ok(id)
    } else {
        Err(Failure::new(
            code::ENVIRONMENT,
            format!("CNI_CONTAINERID {id:?} is not a container id"),
        ))
    }
}

/// Names of links go into nft's texts, where a quote would end them.
fn checked_interface(name: String, code: u32) -> Result<String, Failure> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let fits = (1..=15).contains(&name.len()) && name.chars().all(allowed);
    if fits && name != "." && name != ".." {
        Ok(name)
    } else {
        Err(Failure::new(code, format!("{name:?} is not a name of a link")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: &str = r#"{"cniVersion": "1.1.0", "name": "marooned", "type": "marooned-pass-through",
        "uplink": "eth0", "kubeletPort": 65250, "hostNetwork": false}"#;

    fn ask(command: &str, container: &str, input: &str) -> Result<Request, Failure> {
        let variables = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => command,
                "CNI_CONTAINERID" => container,
                "CNI_IFNAME" => "eth0",
                "CNI_NETNS" => "/run/netns/x",
                _ => return None,
            };
            Some(value.to_owned())
        };
        Request::parse(variables, input)
    }

    fn code_of(answer: Result<Request, Failure>) -> u32 {
        answer.unwrap_err().code
    }

    #[test]
    fn what_the_boot_program_writes_is_understood() {
        let list = super::super::conflist("eth0", 65250, true);
        // As a runtime does it: version and name of the list go into the plugin's own configuration.
        let mut own = list["plugins"][0].clone();
        own["cniVersion"] = list["cniVersion"].clone();
        own["name"] = list["name"].clone();
        let Request::Add(attachment, config) = ask("ADD", "c1", &own.to_string()).unwrap() else {
            panic!("ADD was read as something else");
        };
        assert_eq!(attachment.interface, "eth0");
        assert_eq!((config.kubelet_port, config.host_network), (65250, true));
    }

    #[test]
    fn refusals_carry_the_specifications_codes() {
        assert_eq!(code_of(ask("ADD", "", CONFIG)), code::ENVIRONMENT);
        assert_eq!(code_of(ask("ADD", "../x", CONFIG)), code::ENVIRONMENT);
        assert_eq!(code_of(ask("FROB", "c1", CONFIG)), code::ENVIRONMENT);
        assert_eq!(code_of(ask("ADD", "c1", "{")), code::DECODE);
        assert_eq!(code_of(ask("ADD", "c1", "{}")), code::CONFIG);
        assert_eq!(
            code_of(ask("ADD", "c1", &CONFIG.replace("1.1.0", "0.4.0"))),
            code::VERSION
        );
        let quoted = CONFIG.replace(r#""eth0""#, r#""a\" drop #""#);
        assert_eq!(code_of(ask("ADD", "c1", &quoted)), code::CONFIG);
        assert_eq!(code_of(ask("GC", "", CONFIG)), code::CONFIG);
    }

    #[test]
    fn host_ports_are_those_at_the_pods_address() {
        let mapping = |host_port: u16, host_ip: &str| {
            format!(
                r#"{{"hostPort": {host_port}, "containerPort": 80, "protocol": "tcp", "hostIP": "{host_ip}"}}"#
            )
        };
        let with = |mappings: &[String]| {
            let more = format!(
                r#", "runtimeConfig": {{"portMappings": [{}]}}}}"#,
                mappings.join(", ")
            );
            CONFIG.trim_end_matches('}').to_owned() + &more
        };
        let all = [
            r#"{"HostPort": 8079, "ContainerPort": 80, "Protocol": "udp", "HostIP": ""}"#.to_owned(),
            mapping(8080, ""),
            mapping(8081, "0.0.0.0"),
            mapping(8082, "10.244.1.17"),
            mapping(8083, "127.0.0.1"),
            mapping(8084, "nowhere"),
        ];
        let ports = |mappings: &[String]| {
            let Request::Add(_, config) = ask("ADD", "c1", &with(mappings)).unwrap() else {
                panic!("ADD was read as something else");
            };
            config.host_ports(Ipv4Addr::new(10, 244, 1, 17))
        };
        let all = ports(&all).unwrap();
        let hosts: Vec<u16> = all.iter().map(|port| port.host).collect();
        assert_eq!(hosts, [8082, 8079, 8080, 8081], "an exact address comes first");
        assert_eq!((all[1].container, all[1].protocol), (80, Protocol::Udp));
        let kubelets = ports(&[mapping(65250, "")]).unwrap_err();
        assert_eq!(kubelets.code, code::REFUSED);
        assert!(
            kubelets.message.contains("choose another"),
            "{}",
            kubelets.message
        );
        assert_eq!(ports(&[mapping(65250, "127.0.0.1")]).unwrap(), []);
    }

    #[test]
    fn taking_away_needs_no_more_than_the_container() {
        let del = Request::Del {
            container: "c1".to_owned(),
        };
        assert_eq!(ask("DEL", "c1", "").unwrap(), del);
        let listed = r#"{"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}"#;
        let valid = vec!["c1".to_owned()];
        assert_eq!(ask("GC", "", listed).unwrap(), Request::Gc { valid });
    }

    proptest! {
        #[test]
        fn nothing_panics(command in "ADD|DEL|CHECK|STATUS|GC|VERSION|\\PC*", id in "\\PC*", input in "\\PC*") {
            let _ = ask(&command, &id, &input);
            let _ = version_of(&input);
        }
    }
}
