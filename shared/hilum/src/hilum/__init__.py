"""What every Hilum service shares: domain, contracts, ports, runtime, adapters, testing, in that order of dependence."""
