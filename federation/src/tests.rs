//! Tests of the whole store: openraft's own suite, damage to the files, sudden death, and clusters in one process.

mod cluster;
mod crash;
mod damage;
mod disaster;
mod golden;
mod harness;
mod powerloss;
mod reopen;
mod rot;
mod sessions;
mod sick_disk;
mod suite;
mod worker;
