//! What the daemon and a broker owe each other, on Mosquitto and on the embedded one.

mod acl;
mod embedded;
mod mosquitto;
mod pool;
mod refused;
mod scenarios;
mod silent;
mod users;
