//! The Rego engine for `kata_policy.worker`: load a policy, set its data, evaluate a rule.
//!
//! Owns: calling regorus, and which rules are constants. Must not know: requests, what a result means.
//! Every answer is JSON text, so that neither side has to walk the other's values. Rego is read as version 0,
//! as Kata's agent reads it; `import rego.v1` in a policy asks for the newer one.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use regorus::unstable::{Expr, Rule, RuleHead};
use regorus::utils::limits::ExecutionTimerConfig;
use serde_json::{Value, json};

/// How often the interpreter looks at the clock, in steps of its own.
const STEPS_BETWEEN_LOOKS: NonZeroU32 = NonZeroU32::new(256).unwrap();

#[pyclass(unsendable)]
struct Engine {
    regorus: regorus::Engine,
}

fn refuse(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

#[pymethods]
impl Engine {
    /// An engine with no policy. `limit_ms`: how long one evaluation may take; built-in functions do not look.
    #[new]
    fn new(limit_ms: u64) -> Self {
        let mut regorus = regorus::Engine::new();
        regorus.set_rego_v0(true);
        regorus.set_gather_prints(true);
        regorus.set_strict_builtin_errors(false);
        regorus.set_execution_timer_config(ExecutionTimerConfig {
            limit: Duration::from_millis(limit_ms),
            check_interval: STEPS_BETWEEN_LOOKS,
        });
        Engine { regorus }
    }

    /// Read a policy; `name` stands in its errors. Returns its package, `data.agent_policy`.
    fn load(&mut self, name: String, text: String) -> PyResult<String> {
        self.regorus.add_policy(name, text).map_err(refuse)
    }

    /// Put the data document, JSON text of an object, in the place of the one there is.
    fn set_data(&mut self, text: &str) -> PyResult<()> {
        let data = regorus::Value::from_json_str(text).map_err(refuse)?;
        self.regorus.clear_data();
        self.regorus.add_data(data).map_err(refuse)
    }

    /// The names of all rules, as JSON: true or false for those that are nothing but a default, null for the others.
    fn rules(&mut self) -> String {
        let mut found: BTreeMap<String, Value> = BTreeMap::new();
        for rule in self.regorus.get_modules().iter().flat_map(|module| module.policy.iter()) {
            let (name, constant) = describe(rule);
            let known = found.contains_key(&name);
            found.insert(name, if known { Value::Null } else { constant });
        }
        json!(found).to_string()
    }

    /// Evaluate a query with this input, JSON text. Returns JSON: `values` (empty: undefined), `error` or null, `prints`.
    fn evaluate(&mut self, query: String, input: &str) -> String {
        let outcome = regorus::Value::from_json_str(input).and_then(|input| {
            self.regorus.set_input(input);
            self.regorus.eval_query(query, false)
        });
        let prints = self.regorus.take_prints().unwrap_or_default();
        let (values, error) = match outcome {
            Ok(results) => {
                let values = results.result.iter().map(|row| match row.expressions.as_slice() {
                    [one] => serde_json::to_value(&one.value),
                    _ => Ok(Value::Null),
                });
                match values.collect::<Result<Vec<_>, _>>() {
                    Ok(values) => (values, Value::Null),
                    Err(error) => (vec![], json!(error.to_string())),
                }
            }
            Err(error) => (vec![], json!(error.to_string())),
        };
        json!({"values": values, "error": error, "prints": prints}).to_string()
    }
}

/// A rule's first name, and its value when it is a plain `default NAME := true` or false.
fn describe(rule: &Rule) -> (String, Value) {
    let (path, constant) = match rule {
        Rule::Default { refr, args, value, .. } => {
            let constant = match value.as_ref() {
                Expr::Bool { value, .. } if args.is_empty() => value.as_bool().map_or(Value::Null, |b| json!(b)),
                _ => Value::Null,
            };
            (refr.span().text().to_string(), constant)
        }
        Rule::Spec { head, .. } => {
            let refr = match head {
                RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => refr,
            };
            (refr.span().text().to_string(), Value::Null)
        }
    };
    let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    // `default rule.part := true` gives a value to a part of the rule only.
    let whole = name.len() == path.len();
    (name, if whole { constant } else { Value::Null })
}

#[pymodule]
fn kata_policy_engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Engine>()?;
    module.add("REGORUS", "0.14.1")
}
