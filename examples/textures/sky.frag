#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
layout(location = 0) in vec3 ray;
layout(location = 0) out vec4 colour;

void main()
{
    vec3 direction = normalize(ray);
    float up = max(direction.y, 0.0), towards = max(dot(direction, frame.sun.xyz), 0.0);
    vec3 sky = mix(haze(direction), vec3(0.16, 0.36, 0.70), pow(up, 0.55));
    sky += vec3(1.0, 0.8, 0.5) * (pow(towards, 900.0) * 3.0 + pow(towards, 30.0) * 0.22);
    if (direction.y > 0.01) {
        float cover = clouds(frame.eye.xz + direction.xz / direction.y * 2.0);
        vec3 white = mix(vec3(0.82, 0.86, 0.92), vec3(1.0, 0.95, 0.88), 0.4 + 0.6 * towards);
        sky = mix(sky, white, cover * smoothstep(0.01, 0.22, direction.y) * 0.85);
    }
    colour = vec4(sky, 1);
}
