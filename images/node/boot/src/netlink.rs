//! Links, addresses and routes of one network namespace, by rtnetlink on a blocking socket.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

/// Bits of an IPv4 address: a prefix that holds one host.
pub const HOST_PREFIX: u8 = 32;

/// A link as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// It is switched on.
    pub up: bool,
}

/// A pair of connected links, one end in another namespace.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// Name of this end.
    pub name: &'a str,
    /// Name of the other end.
    pub peer: &'a str,
    /// Where the other end is.
    pub peer_namespace: &'a File,
    /// Hardware address of the other end.
    pub peer_mac: [u8; 6],
    /// MTU of both, in bytes.
    pub mtu: u32,
}

/// Where packets go that match nothing nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To one neighbour, straight out of the link.
    Neighbour(Ipv4Addr),
    /// To everything else, by way of this neighbour.
    Default(Ipv4Addr),
}

/// A connection to the kernel; it stays with the namespace in which it was opened.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// For the namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("opening a netlink socket")?;
        socket.bind_auto().context("binding a netlink socket")?;
        Ok(Self { socket, sequence: 0 })
    }

    /// For another namespace. The calling thread stays where it is: only a thread made for it enters.
    pub fn open_in(namespace: &File) -> Result<Self> {
        let enter_and_open = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("entering the network namespace")?;
            Self::open()
        };
        thread::scope(|scope| scope.spawn(enter_and_open).join())
            .map_err(|_| anyhow!("entering the network namespace ended in a panic"))?
    }

    /// The link of this name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = match self.ask(RouteNetlinkMessage::GetLink(message), 0)? {
            Ok(answers) => answers,
            Err(Errno::ENODEV) => return Ok(None),
            Err(errno) => return Err(errno).with_context(|| format!("looking up link {name}")),
        };
        let described = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        let described = described.with_context(|| format!("the kernel said nothing of link {name}"))?;
        let mtu = described.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        Ok(Some(Link {
            index: described.header.index,
            mtu: mtu.with_context(|| format!("link {name} has no MTU"))?,
            up: described.header.flags.contains(LinkFlags::Up),
        }))
    }

    /// The IPv4 addresses of a link.
    pub fn addresses(&mut self, link: u32) -> Result<Vec<Ipv4Addr>> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let answers = self
            .ask(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP)?
            .context("listing addresses")?;
        let of_link = |answer| match answer {
            RouteNetlinkMessage::NewAddress(address) if address.header.index == link => Some(address),
            _ => None,
        };
        let local = |address: AddressMessage| {
            address
                .attributes
                .into_iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Local(IpAddr::V4(local)) => Some(local),
                    _ => None,
                })
        };
        Ok(answers
            .into_iter()
            .filter_map(of_link)
            .filter_map(local)
            .collect())
    }

    /// Makes a pair of connected links, both switched off.
    pub fn add_veth(&mut self, veth: Veth<'_>) -> Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(veth.peer.to_owned()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::Address(veth.peer_mac.to_vec()),
            LinkAttribute::NetNsFd(veth.peer_namespace.as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(veth.name.to_owned()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.tell(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            .with_context(|| format!("making the links {} and {}", veth.name, veth.peer))
    }

    /// Deletes a link, and with it its peer.
    pub fn delete_link(&mut self, link: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = link;
        self.tell(RouteNetlinkMessage::DelLink(message), 0)
            .context("deleting a link")
    }

    /// Switches a link on.
    pub fn set_up(&mut self, link: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = link;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.tell(RouteNetlinkMessage::SetLink(message), 0)
            .context("switching a link on")
    }

    /// Gives a link an address, which it may have already. One that is valid on the link only is never the source of
    /// packets that leave by another.
    pub fn add_address(
        &mut self,
        link: u32,
        address: Ipv4Addr,
        prefix: u8,
        on_link_only: bool,
    ) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = link;
        if on_link_only {
            message.header.scope = AddressScope::Link;
        }
        message.attributes = vec![
            AddressAttribute::Local(address.into()),
            AddressAttribute::Address(address.into()),
        ];
        self.tell(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .with_context(|| format!("adding address {address}/{prefix}"))
    }

    /// Adds a route out of a link.
    pub fn add_route(&mut self, link: u32, route: Route) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: AddressFamily::Inet,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Boot,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes = vec![RouteAttribute::Oif(link)];
        match route {
            Route::Neighbour(address) => {
                message.header.scope = RouteScope::Link;
                message.header.destination_prefix_length = HOST_PREFIX;
                let destination = IpAddr::V4(address).into();
                message.attributes.push(RouteAttribute::Destination(destination));
            }
            Route::Default(gateway) => {
                let gateway = IpAddr::V4(gateway).into();
                message.attributes.push(RouteAttribute::Gateway(gateway));
            }
        }
        self.tell(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
            .with_context(|| format!("adding the route {route:?}"))
    }

    fn tell(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.ask(message, flags | NLM_F_ACK)??;
        Ok(())
    }

    /// What the kernel answers, or why it refuses. A lookup is answered by one message, an order by none, and a dump
    /// by any number.
    fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Result<Vec<RouteNetlinkMessage>, Errno>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).context("asking the kernel")?;

        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self
                .socket
                .recv_from_full()
                .context("reading the kernel's answer")?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .context("reading the kernel's answer")?;
                let length = usize::try_from(answer.header.length)?.next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::Error(refusal) => {
                        return Ok(match refusal.code {
                            Some(_) => Err(Errno::from_raw(-refusal.raw_code())),
                            None => Ok(answers),
                        });
                    }
                    NetlinkPayload::Done(_) => return Ok(Ok(answers)),
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Overrun(_) => bail!("the kernel dropped answers"),
                    _ => {}
                }
            }
            if flags & (NLM_F_ACK | NLM_F_DUMP) == 0 {
                return Ok(Ok(answers));
            }
        }
    }
}
