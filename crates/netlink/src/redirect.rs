//! Frames that arrive at a link and leave by another one, before the host's own stack sees them: tc-u32(8) with
//! tc-mirred(8), see `linux/pkt_sched.h`, `linux/pkt_cls.h` and `linux/tc_act/tc_mirred.h`.

use crate::Batch;
use crate::batch::NLM_F_ACK;
use crate::link::NLM_F_CREATE;
use crate::shaper::{RTM_DELQDISC, RTM_NEWQDISC, TCA_KIND, TCA_OPTIONS};

const RTM_NEWTFILTER: u16 = 44;
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
const ETH_P_ALL: u16 = 3;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;

impl Batch {
    /// Whatever arrives at the link of one index leaves by that of the other from now on. It ends with
    /// [`Batch::end_redirect`]; frames for a link that is gone are dropped.
    pub fn redirect(&mut self, from: u32, to: u32) {
        self.message(
            RTM_NEWQDISC,
            NLM_F_ACK | NLM_F_CREATE,
            &header(from, INGRESS_HANDLE, TC_H_INGRESS, 0),
        );
        self.text(TCA_KIND, "ingress");
        // The priority in the upper half, the protocol (in the network's order) in the lower one.
        let information = (1 << 16) | u32::from(ETH_P_ALL.to_be());
        self.message(
            RTM_NEWTFILTER,
            NLM_F_ACK | NLM_F_CREATE,
            &header(from, 0, INGRESS_HANDLE, information),
        );
        self.text(TCA_KIND, "u32");
        let options = self.begin(TCA_OPTIONS);
        // struct tc_u32_sel with one struct tc_u32_key that fits everything: no bit of it is compared.
        let mut selector = [0; 32];
        (selector[0], selector[2]) = (TC_U32_TERMINAL, 1);
        self.attribute(TCA_U32_SEL, &selector);
        let actions = self.begin(TCA_U32_ACT);
        // The first one of a list; it is the only one.
        let action = self.begin(1);
        self.text(TCA_ACT_KIND, "mirred");
        let parameters = self.begin(TCA_ACT_OPTIONS);
        // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
        let mirred = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to].map(u32::to_ne_bytes);
        self.attribute(TCA_MIRRED_PARMS, mirred.as_flattened());
        self.end(parameters);
        self.end(action);
        self.end(actions);
        self.end(options);
    }

    /// What arrives at the link goes to the host's own stack again; refused (`ENOENT` or `EINVAL`) when it did.
    pub fn end_redirect(&mut self, index: u32) {
        self.message(
            RTM_DELQDISC,
            NLM_F_ACK,
            &header(index, INGRESS_HANDLE, TC_H_INGRESS, 0),
        );
    }
}

/// `struct tcmsg`: family, index, handle, parent, info.
fn header(index: u32, handle: u32, parent: u32, information: u32) -> [u8; 20] {
    let mut fixed = [0; 20];
    for (at, number) in [index, handle, parent, information].into_iter().enumerate() {
        fixed[4 + 4 * at..8 + 4 * at].copy_from_slice(&number.to_ne_bytes());
    }
    fixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{Attributes, Messages};

    #[test]
    fn a_redirection_is_a_queue_and_a_filter_for_everything() {
        let mut batch = Batch::default();
        batch.redirect(7, 9);
        let messages: Vec<_> = Messages(batch.as_bytes()).collect();
        let kinds: Vec<_> = messages.iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(kinds, [RTM_NEWQDISC, RTM_NEWTFILTER]);
        let attributes = Attributes(&messages[1].2[20..]);
        assert_eq!(attributes.text(TCA_KIND), Some("u32"));
        let actions = attributes
            .nested(TCA_OPTIONS)
            .and_then(|options| options.nested(TCA_U32_ACT))
            .unwrap();
        let action = actions.nested(1).unwrap();
        assert_eq!(action.text(TCA_ACT_KIND), Some("mirred"));
        let parameters = action.nested(TCA_ACT_OPTIONS).unwrap();
        let parameters = parameters.get(TCA_MIRRED_PARMS).unwrap();
        assert_eq!(parameters[24..28], 9_u32.to_ne_bytes());
    }
}
