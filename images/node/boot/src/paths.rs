//! Where things are in the guest: the agreement with the node image, in one place.

/// Folder of what join writes; a tmpfs in the minimal image, so that no disk ever holds the token.
pub const CONFIG_FOLDER: &str = "/etc/marooned";
/// Certificates to verify the API server with.
pub const CA: &str = "/etc/marooned/ca.crt";
/// What the kubelet first connects with; holds the token.
pub const BOOTSTRAP_KUBECONFIG: &str = "/etc/marooned/bootstrap.kubeconfig";
/// The kubelet's configuration.
pub const KUBELET_CONFIG: &str = "/etc/marooned/kubelet.yaml";
/// The kubelet's arguments, as an environment file for a systemd unit.
pub const KUBELET_ENVIRONMENT: &str = "/etc/marooned/kubelet.env";
/// Resolver configuration for pods that ask for the node's.
pub const RESOLV_CONF: &str = "/etc/marooned/resolv.conf";
/// Whose target `/etc/machine-id` is, in the minimal image.
pub const MACHINE_ID: &str = "/etc/marooned/machine-id";
/// Folder of CNI configurations, private to this image.
pub const CNI_CONFIG_FOLDER: &str = "/etc/marooned/cni";
/// The one CNI configuration.
pub const CNI_CONFIG: &str = "/etc/marooned/cni/10-marooned.conflist";
/// Folder that the kubelet keeps its state in.
pub const KUBELET_FOLDER: &str = "/var/lib/kubelet";
/// What the kubelet connects with once it has its certificate; written by it.
pub const KUBECONFIG: &str = "/var/lib/kubelet/kubeconfig";
/// The kubelet's client certificate; there when the node has joined.
pub const CLIENT_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// The kubelet's serving certificate.
pub const SERVING_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-server-current.pem";
/// Where containerd answers.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// Configuration of the k3s agent; holds the token until the node has joined.
pub const K3S_CONFIG: &str = "/etc/rancher/k3s/config.yaml";
/// The k3s agent's client certificate.
pub const K3S_CLIENT_CERTIFICATE: &str = "/var/lib/rancher/k3s/agent/client-kubelet.crt";
/// Where programs are, for those that we start.
pub const PROGRAM_FOLDERS: &str = "/usr/bin:/usr/sbin:/bin:/sbin";
/// The guest's one network link.
pub const UPLINK: &str = "eth0";
