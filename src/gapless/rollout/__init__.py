"""Moving users from one release to another: pure decisions, acted upon by `control`.

`plan` says which steps there are, `tally` adds up what was answered, `analysis` says what it means, `controller` what
comes next, `commands` what people may ask for in between.
"""
