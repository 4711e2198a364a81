//! The command line flags for certificates.

use std::time::Duration;

use clap::ValueEnum;
use maroonedpods_server::program::duration;
use thiserror::Error;

use super::decide::Rules;

const LONGEST: Duration = Duration::from_secs(87600 * 3600);

/// How the webhook gets its certificate.
#[derive(clap::Args, Clone, Debug)]
pub struct CertsArgs {
    /// Who makes the webhook's serving certificate. `builtin`: the leading reconciler makes and renews it, and tells
    /// the API servers which CA to trust. `none`: another program does, such as cert-manager, and the reconciler
    /// changes nothing.
    #[arg(
        long = "certs",
        env = "MAROONEDPODS_CERTS",
        value_enum,
        default_value = "none",
        id = "certs"
    )]
    pub mode: Mode,
    /// How long a new certificate is valid.
    #[arg(long = "certs-lifetime", env = "MAROONEDPODS_CERTS_LIFETIME", value_name = "DURATION",
          default_value = "2160h", value_parser = duration, id = "certs_lifetime")]
    pub lifetime: Duration,
    /// How long before its end a certificate is replaced. Shorter than the lifetime.
    #[arg(long = "certs-renew-before", env = "MAROONEDPODS_CERTS_RENEW_BEFORE", value_name = "DURATION",
          default_value = "720h", value_parser = duration, id = "certs_renew_before")]
    pub renew_before: Duration,
    /// How long every API server may take to learn of a new CA: for that long the webhook serves no certificate that
    /// only the new CA signed. Also how often the reconciler checks everything. Shorter than the time before renewal.
    #[arg(long = "certs-settle", env = "MAROONEDPODS_CERTS_SETTLE", value_name = "DURATION",
          default_value = "10s", value_parser = duration, id = "certs_settle")]
    pub settle: Duration,
}

/// Who makes the certificate.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Another program, such as cert-manager.
    None,
    /// The leading reconciler.
    Builtin,
}

/// Durations that do not fit together.
#[derive(Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulesError {
    /// Every new pair would be due for renewal at once.
    #[error("--certs-renew-before must be shorter than --certs-lifetime")]
    RenewBefore,
    /// A certificate cannot hold a date that far ahead.
    #[error("--certs-lifetime must be 87600h (ten years) at most")]
    Lifetime,
    /// A certificate could end while its successor waits to be trusted.
    #[error("--certs-settle must be longer than zero and shorter than --certs-renew-before")]
    Settle,
}

impl CertsArgs {
    /// The rules that these flags ask for; `None` when another program makes the certificates.
    ///
    /// # Errors
    /// The flag that does not fit the others.
    pub fn rules(&self) -> Result<Option<Rules>, RulesError> {
        if self.mode == Mode::None {
            return Ok(None);
        }
        if self.lifetime > LONGEST {
            return Err(RulesError::Lifetime);
        }
        if self.renew_before >= self.lifetime {
            return Err(RulesError::RenewBefore);
        }
        if self.settle.is_zero() || self.settle >= self.renew_before {
            return Err(RulesError::Settle);
        }
        Ok(Some(Rules {
            lifetime: self.lifetime,
            renew_before: self.renew_before,
            settle: self.settle,
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        certs: CertsArgs,
    }

    fn rules(flags: &[&str]) -> Result<Option<Rules>, RulesError> {
        let line = ["test"].into_iter().chain(flags.iter().copied());
        Cli::try_parse_from(line).unwrap().certs.rules()
    }

    #[test]
    fn without_builtin_there_are_no_rules() {
        assert_eq!(rules(&[]), Ok(None));
        assert_eq!(rules(&["--certs=none", "--certs-lifetime=1s"]), Ok(None));
    }

    #[test]
    fn durations_must_fit_together() {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        let defaults = Rules {
            lifetime: hours(2160),
            renew_before: hours(720),
            settle: Duration::from_secs(10),
        };
        assert_eq!(rules(&["--certs=builtin"]), Ok(Some(defaults)));
        let refused = |flag| rules(&["--certs=builtin", flag]);
        assert_eq!(refused("--certs-lifetime=720h"), Err(RulesError::RenewBefore));
        assert_eq!(refused("--certs-lifetime=87601h"), Err(RulesError::Lifetime));
        assert_eq!(refused("--certs-settle=720h"), Err(RulesError::Settle));
        assert_eq!(refused("--certs-settle=0s"), Err(RulesError::Settle));
        assert!(Cli::try_parse_from(["test", "--certs-settle=-1s"]).is_err());
        assert!(Cli::try_parse_from(["test", "--certs-settle=soon"]).is_err());
    }
}
