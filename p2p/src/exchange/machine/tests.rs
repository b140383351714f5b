//! The machine's rules, one by one, over a shell of memory: real pieces, real ladders, no network. Whole
//! swarms over time are in `tests/sim`.

mod blame;
mod company;
mod endgame;
mod flow;
mod pace;
mod shell;
mod trickle;
