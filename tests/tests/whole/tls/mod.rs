//! TLS, towards Mosquitto and in front of the embedded broker, with authorities and certificates made for the test.

mod authority;
mod embedded;
mod faults;
mod mosquitto;
mod tunnel;
