//! What a link sends at most: the token bucket filter, see tc-tbf(8) and `linux/pkt_sched.h`.

use crate::Batch;
use crate::batch::NLM_F_ACK;
use crate::link::{NLM_F_CREATE, NLM_F_REPLACE};

pub(crate) const RTM_NEWQDISC: u16 = 36;
pub(crate) const RTM_DELQDISC: u16 = 37;
pub(crate) const TCA_KIND: u16 = 1;
pub(crate) const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_LINKLAYER_ETHERNET: u8 = 1;

impl Batch {
    /// The link sends that many bytes a second, `burst` bytes at once at most, and holds back as
    /// many as it sends within `delay_ms`. `burst` has to hold the largest packet, that of a
    /// segmentation offload included (64 KiB).
    pub fn shape(&mut self, index: u32, bytes_per_second: u64, burst: u32, delay_ms: u32) {
        let waiting = bytes_per_second.saturating_mul(u64::from(delay_ms)) / 1000;
        let limit = waiting
            .saturating_add(u64::from(burst))
            .min(u64::from(u32::MAX)) as u32;
        self.message(
            RTM_NEWQDISC,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
            &header(index),
        );
        self.text(TCA_KIND, "tbf");
        let options = self.begin(TCA_OPTIONS);
        // struct tc_tbf_qopt: two struct tc_ratespec, of what it sends and of its peaks, then limit,
        // buffer (said in bytes by TCA_TBF_BURST) and mtu.
        let mut parameters = [0; 36];
        parameters[1] = TC_LINKLAYER_ETHERNET;
        let rate = bytes_per_second.min(u64::from(u32::MAX)) as u32;
        parameters[8..12].copy_from_slice(&rate.to_ne_bytes());
        parameters[24..28].copy_from_slice(&limit.to_ne_bytes());
        self.attribute(TCA_TBF_PARMS, &parameters);
        self.number(TCA_TBF_BURST, burst);
        if bytes_per_second > u64::from(u32::MAX) {
            self.attribute(TCA_TBF_RATE64, &bytes_per_second.to_ne_bytes());
        }
        self.end(options);
    }

    /// The link sends as much as it can again; refused (`ENOENT`) when it did.
    pub fn unshape(&mut self, index: u32) {
        self.message(RTM_DELQDISC, NLM_F_ACK, &header(index));
    }
}

/// `struct tcmsg`.
fn header(index: u32) -> [u8; 20] {
    let mut fixed = [0; 20];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[12..16].copy_from_slice(&TC_H_ROOT.to_ne_bytes());
    fixed
}
