//! What the server knows: asked, never changed.

use std::net::IpAddr;

/// Networks, and who is in them. Names are given in lower case and without the dot at the end.
pub trait Directory {
    /// What a network is called between the two.
    type Network: Copy + Eq;

    /// The networks of whoever has this address in a network; `None`: nobody has it, and nobody is answered.
    fn networks_of(&self, network: Self::Network, source: IpAddr) -> Option<Vec<Self::Network>>;

    /// Whether whoever has this address may have a name asked of servers outside. Not when it is in internal
    /// networks alone, and not when it may not reach what the name stands for: what must not leave in a packet
    /// would otherwise leave in the name that is asked for. `None`: a name that cannot be written as text.
    fn may_ask_outside(&self, network: Self::Network, source: IpAddr, name: Option<&str>) -> bool;

    /// The name of a network, which may follow the name of an instance: `web.front`.
    fn network_name(&self, network: Self::Network) -> &str;

    /// All addresses of all that have this name in a network; `None`: nobody has it.
    fn addresses(&self, network: Self::Network, name: &str) -> Option<Vec<IpAddr>>;

    /// The first name of whoever has an address in a network, without the network's.
    fn name_of(&self, network: Self::Network, address: IpAddr) -> Option<&str>;

    /// Whether an address belongs to a subnet of a network, whoever has it.
    fn covers(&self, network: Self::Network, address: IpAddr) -> bool;
}
