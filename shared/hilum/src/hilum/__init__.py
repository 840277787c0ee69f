"""What every service shares: domain, contracts, ports, runtime, adapters and testing."""
