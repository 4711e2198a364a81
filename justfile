# Runs the scripts of hack/: `just`, `just demo`, `just test --real`.

_default:
    @just --list

# Show the whole loop, live
demo *options:
    hack/demo {{ options }}

# Run every check; --real runs all that CI runs
test *options:
    hack/test {{ options }}

# Fuzz what a guest reads, for so many seconds
fuzz *options:
    hack/fuzz {{ options }}

# Measure guests, the webhook or the reconciler
bench *options:
    hack/bench {{ options }}

# Build the programs' images
image *options:
    hack/image {{ options }}

# Build the node image
node-image *options:
    hack/node-image {{ options }}

# Build the pages of docs/ as a site
docs:
    hack/docs

# Write the CRDs and the page of the chart's values
generate *options:
    hack/generate {{ options }}
