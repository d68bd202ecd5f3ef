//! One line of comma-separated values, with quotes as RFC 4180 has them: `--mount` takes such.

use super::FlagError;

/// The fields of a line.
pub fn fields(line: &str) -> Result<Vec<String>, FlagError> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = line.chars().peekable();
    let mut in_quotes = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if in_quotes && chars.peek() == Some(&'"') => {
                field.push('"');
                chars.next();
            }
            '"' if in_quotes => in_quotes = false,
            '"' if field.is_empty() => in_quotes = true,
            ',' if !in_quotes => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if in_quotes {
        return Err(FlagError::new(
            format!("{line:?} has a quote that is not closed"),
            "close the quote, or double it inside a quoted field",
        ));
    }
    fields.push(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::fields;

    #[test]
    fn quotes_keep_commas_together() {
        assert_eq!(fields("a,b=c").unwrap(), ["a", "b=c"]);
        assert_eq!(
            fields(r#"a,"b=c,d","e""f""#).unwrap(),
            ["a", "b=c,d", "e\"f"]
        );
        assert_eq!(fields("").unwrap(), [""]);
        fields("\"a").unwrap_err();
    }
}
