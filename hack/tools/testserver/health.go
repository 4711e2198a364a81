package main

import (
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// answerHealth answers gRPC's health protocol on 8081: the server is healthy, and so is the service "well"; the service
// "sick" is not.
func answerHealth() error {
	listener, err := net.Listen("tcp4", ":8081")
	if err != nil {
		return err
	}
	states := health.NewServer()
	states.SetServingStatus("well", grpc_health_v1.HealthCheckResponse_SERVING)
	states.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, states)
	fmt.Println("serving")
	return server.Serve(listener)
}
