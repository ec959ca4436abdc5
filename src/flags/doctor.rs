//! The flags of `doctor` and `setup`.

use argh::{ArgsInfo, FromArgs};

use crate::net::Intercept;

/// Examines this machine and says for each check ok, WARN or FAIL, in one sentence, with the commands that mend it. It
/// changes nothing and sends no mail. Without an operand it examines the services that systemd starts here, with the
/// flags that their units name. Run it as root. The first line and the exit code are what monitoring systems expect
/// (Nagios): 0 all is well, 1 warnings, 2 failures.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "doctor",
    example = "Before the units are there, with the flags that the service is to have:\n\
               starttls-proxy doctor outbound --listen '[::]:2525' --intercept tproxy"
)]
pub struct DoctorFlags {
    /// outbound or inbound, and its flags (default: the services of this machine)
    #[argh(positional, greedy, arg_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Prints what would put the proxy on the path of port 25 on this machine: firewall rules, routing rules, units and
/// flags, each with its reason. It runs nothing.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(subcommand, name = "setup")]
pub struct SetupFlags {
    /// interface towards the mail server, to intercept outbound mail (default: those that no default route leads
    /// through, unless only --outside is given)
    #[argh(option, arg_name = "INTERFACE")]
    pub inside: Vec<String>,
    /// interface towards the world, to intercept inbound mail (default: none, unless the units intercept it already)
    #[argh(option, arg_name = "INTERFACE")]
    pub outside: Vec<String>,
    /// how the kernel hands connections to the proxy (default tproxy)
    #[argh(option, arg_name = "tproxy|redirect")]
    pub intercept: Option<Intercept>,
}
