//! Who is admitted, as what, and how standing changes (spec §6). Called by the registration RPC, the
//! stake reconciler and the operator's commands; all of them store what these functions decide.

mod assess;
mod registration;
mod status;

pub use assess::{
    AdmissionPolicy, Assessment, Capabilities, CapabilityError, Resource, Shortfall, TierMinima,
    assess,
};
pub use registration::{
    Applicant, RefusalCode, Registration, StakePolicy, StakeView, decide_registration,
};
pub use status::{STAKE_GRACE, StatusEvent, TransitionError, next_status};

#[cfg(test)]
mod tests;
