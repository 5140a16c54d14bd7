"""Where instances run. `fleet.local` runs them as processes on this machine."""
